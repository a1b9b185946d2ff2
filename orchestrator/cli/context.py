"""What commands share: options, the settings, the client, and how an answer is printed.

A command that calls the service takes a `Caller`:

    @group.command("cancel")
        def cancel_job(job_id: str, caller: Caller) -> None:
        with caller.connect() as onelane:
            caller.show(onelane.jobs.cancel(job_id), print_job)
"""

from __future__ import annotations

import functools
import inspect
import json as json_text
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from ..terminal import console, print_json, print_lines
from .output import print_table

if TYPE_CHECKING:
    from ..client import Onelane, Resource
    from ..settings import Settings

DataDir = Annotated[Path | None, typer.Option(help="Where files live (ONELANE_DATA_DIR).")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]
Ids = Annotated[bool, typer.Option("--ids", help="Only ids on standard output, one a line, for scripts.")]
Url = Annotated[str | None, typer.Option(help="The service's address (ONELANE_URL); found in the data directory.")]
Key = Annotated[str | None, typer.Option(help="The API key (ONELANE_API_KEY); found in the data directory.")]
Limit = Annotated[int, typer.Option(min=1, help="Most rows.")]
Watch = Annotated[bool, typer.Option("--watch", help="Refresh the list every two seconds.")]
Idempotency = Annotated[str | None, typer.Option(help="For 24 hours, the same key gets the same answer.")]

Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])


def expand_options(command: Command) -> Command:
    """The command with each parameter that is a dataclass replaced by the dataclass's fields.

    So options that several commands share are defined once, with their names, defaults and help. Typer can share
    options only before a command's name, where users do not expect `--json`.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Callable[..., Any]] = {
        name: each.annotation
        for name, each in signature.parameters.items()
        if isinstance(each.annotation, type) and is_dataclass(each.annotation)
    }
    fields = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        built = {name: group(**{each: given.pop(each) for each in fields[name]}) for name, group in groups.items()}
        command(**given, **built)

    expanded.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            shown for name, each in signature.parameters.items() for shown in fields.get(name, {name: each}).values()
        ]
    )
    return cast("Command", expanded)


class CommandGroup(typer.Typer):
    """A group of commands, each of which may take dataclasses of options."""

    def __init__(self, help: str) -> None:
        super().__init__(help=help, no_args_is_help=True)

    def command(self, *arguments: Any, **named: Any) -> Callable[[Command], Command]:
        register = super().command(*arguments, **named)
        return lambda function: register(expand_options(function))


class NoKey(Exception):
    """There is no API key."""


def load(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """The settings, with a command's own options over them."""
    from ..settings import Settings

    return Settings.load(data_dir=data_dir, **overrides)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The service to call, the key, and whether a person or a program reads the answer."""

    ids: Ids = False
    url: Url = None
    key: Key = None
    data_dir: DataDir = None
    json: Json = False

    def connect(self, *, timeout_seconds: float = 30.0, retries: int = 2) -> Onelane:
        """A client of the service that the options, the settings or the data directory name.

        Raises:
            NoKey: neither an option, nor a setting, nor the data directory has one.
        """
        from ..client import Onelane
        from ..client_settings import load_client_settings
        from ..local.data_folder import DataFolder
        from ..local.ports import reachable_host
        from ..settings_sources import DEFAULT_PORT

        settings = load_client_settings(data_dir=self.data_dir, url=self.url, api_key=self.key)
        folder = DataFolder(settings.data_dir)
        port = settings.port or folder.ports().get("api", DEFAULT_PORT)
        address = settings.url or f"http://{reachable_host(settings.host)}:{port}"
        # Several admin keys may be set, separated by commas.
        found = settings.key.split(",")[0].strip() if settings.key else folder.kept_key("admin")
        if not found:
            raise NoKey(
                f"no API key: give --key or ONELANE_API_KEY, or name the data directory of a running `onelane up` "
                f"(--data-dir; none was made in {folder.path})"
            )
        return Onelane(address, found, timeout_seconds=timeout_seconds, retries=retries)

    def show(self, answer: Answer, for_people: Callable[[Answer], None]) -> None:
        """The whole answer for a program; `for_people` prints it for a person."""
        if self.ids:
            print_lines(_ids(answer))
        elif self.json:
            print_json(answer)
        else:
            for_people(answer)

    def report(self, answer: Resource, sentence: str) -> None:
        """The whole answer for a program, a sentence for a person."""
        self.show(answer, lambda _: console.print(sentence, markup=False))

    def show_rows(
        self,
        fetch: Callable[[], Iterable[Resource]],
        columns: Sequence[str],
        *,
        empty: str,
        for_people: Callable[[Resource], Resource] = dict,
        watch: bool = False,
    ) -> None:
        """A list's items: as `{"items": […]}` for a program, else a table of `for_people(item)`.

        With `watch`, the list is refreshed until Ctrl-C.
        """
        if watch:
            from .live import watch_rows

            watch_rows(fetch, columns, empty=empty, for_people=for_people, json=self.json)
        self.show(
            {"items": list(fetch())},
            lambda answer: print_table([for_people(each) for each in answer["items"]], columns, empty=empty),
        )


def _ids(answer: Any) -> list[str]:
    """The id of a resource, or of each in a list; empty if it has none."""
    items = answer.get("items", [answer])
    found = (next((each[name] for name in ("id", "account", "lane") if each.get(name)), None) for each in items)
    return [str(each) for each in found if each is not None]


def read_time(option: str, text: str | None) -> datetime | None:
    """The time that an option names, with its offset.

    Raises:
        BadParameter: it is not a time with an offset.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass  # the error below says what is right
    else:
        if moment.tzinfo is not None:
            return moment
    raise typer.BadParameter(f"{option}: {text!r} is not a time with offset, such as 2026-11-21T09:00:00+01:00")


def read_text(option: str, text: str) -> str:
    """The text that an option names: itself, of a file after an @, or on standard input for -.

    Raises:
        BadParameter: it cannot be read.
    """
    try:
        if text == "-":
            return sys.stdin.read()
        if text.startswith("@"):
            return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{option}: {error}") from None
    return text


def read_json(option: str, text: str, kind: type[dict[str, Any] | list[Any]]) -> Any:
    """The JSON that an option names: itself, of a file after an @, or on standard input for -.

    Raises:
        BadParameter: it cannot be read, is not JSON, or is not of that kind.
    """
    try:
        value = parse_json(read_text(option, text))
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from None
    if not isinstance(value, kind):
        raise typer.BadParameter(f"{option}: it must be a JSON {'object' if kind is dict else 'array'}")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text that can be sent.

    Raises:
        ValueError: it is not JSON, or cannot be sent: NaN, a lone surrogate, too deep.
    """
    try:
        value = json_text.loads(text)
        json_text.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value
