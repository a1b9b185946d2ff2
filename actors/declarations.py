"""What a step declares that it uses, and which declaration each of its calls needs.

Invariant: the worker's end of the port checks every call with `Declaration.check`. The step's own process cannot widen
its declaration, even if a web page has taken it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from .errors import NotDeclared

ClientName = Literal["browser", "gemini", "http"]
#: The names for `clients`; see `docs/pipelines.md`.
CLIENT_NAMES: frozenset[str] = frozenset(get_args(ClientName))

#: The client of each settings name, where the two differ.
_CLIENT_OF_SETTINGS: Mapping[str, str] = {"text_model": "gemini"}
#: Calls that need a certain client.
_CLIENT_OF_CALL: Mapping[str, str] = {"usage.add": "gemini"}
#: Other declarations, by the part of the call's name before the first full stop.
_WORDS: Mapping[str, str] = {
    "draft": "drafts",
    "publication": "publication",
    "session": "session",
    "target": "publication",
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """The arguments of `@step` with the same names."""

    clients: frozenset[str] = frozenset()
    session: bool = False
    drafts: bool = False
    publication: bool = False

    @classmethod
    def of(cls, clients: Iterable[str], *, session: bool, drafts: bool, publication: bool) -> Declaration:
        """A checked declaration.

        Raises:
            ValueError: `clients` is no collection of known names.
        """
        if isinstance(clients, str):
            raise ValueError(f"clients={clients!r} must be a set of names: clients={{{clients!r}}}")
        names = frozenset(clients)
        unknown = sorted(names - CLIENT_NAMES, key=repr)
        if unknown:
            raise ValueError(
                f"clients has {', '.join(map(repr, unknown))}; known are {', '.join(sorted(CLIENT_NAMES))}"
            )
        return cls(names, session=session, drafts=drafts, publication=publication)

    def check(self, step: str, call: str, payload: Mapping[str, Any]) -> None:
        """Refuse a call that is not declared; `step` is the step's name for the message.

        Raises:
            NotDeclared: the message has the missing argument of `@step`.
        """
        missing = self._missing(call, payload)
        if missing is not None:
            raise NotDeclared(f"step {step!r} called {call!r} without declaring it: add {missing} to its @step(...)")

    def _missing(self, call: str, payload: Mapping[str, Any]) -> str | None:
        client = _CLIENT_OF_CALL.get(call)
        if call == "client.settings":
            name = str(payload["name"])
            client = _CLIENT_OF_SETTINGS.get(name, name)
        if client is not None:
            return None if client in self.clients else f'clients={{"{client}"}}'
        word = _WORDS.get(call.partition(".")[0])
        if word is None or cast(bool, getattr(self, word)):
            return None
        return f"{word}=True"
