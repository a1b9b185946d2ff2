"""The settings of an installation: `ONELANE_…` variables, a `.env` file, a TOML file, in this order of precedence.

Invariants: `Settings` are immutable and valid; all faults are reported together, unknown names too; their text form
shows no secret. The TOML file is `onelane.toml` in the working directory, or the one that `ONELANE_CONFIG` names.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from actors.clients.safe_url import parse_allowed_hosts

from .settings_sources import (
    DEFAULT_DATA_DIR,
    DEFAULT_HOST,
    DEFAULT_PORT,
    MINIMUM_KEY_CHARACTERS,
    config_file,
    config_file_faults,
    dotenv_faults,
    sentence,
    unknown_variables,
)
from .settings_sources import PREFIX as PREFIX
from .settings_sources import SettingsError as SettingsError

#: Browsers that Playwright can drive, the lightest first.
CHROMIUM_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_CHECKING_ALERT_URLS = ContextVar("checking_alert_urls", default=True)

Port = Annotated[int, Field(ge=1, le=65535)]
Names = Annotated[tuple[str, ...], NoDecode]
RateLimit = str | None

_RATE = re.compile(r"[1-9]\d{0,8} ?(/|per) ?(\d{1,6} ?)?(second|minute|hour|day)s?")


class Settings(BaseSettings):
    """All settings. Make one with `Settings.load()`, which reports every fault at once."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    #: The directory of SQLite, Valkey's append-only file, generated keys and artifacts. Always absolute.
    data_dir: Path = DEFAULT_DATA_DIR
    #: SQLAlchemy URL; SQLite in the data directory when unset.
    database_url: str = Field(default="", repr=False, validate_default=True)
    #: Redis or Valkey; `onelane up` starts an embedded one when unset.
    redis_url: str | None = Field(default=None, repr=False)
    #: The key with scope `admin`; `up` generates and stores one.
    admin_key: SecretStr | None = None
    #: The keys that seal sessions; several, separated by commas, for rotation: the first seals, all open.
    secret_key: SecretStr | None = None
    #: Modules with the user's pipelines.
    pipelines: Names = ()
    #: The user's publishers: `module:Class`.
    publishers: Names = ()
    #: Private hosts (`host`, `host:port` or a network in CIDR form) that publishers and webhooks may reach.
    allowed_hosts: Names = ()

    gemini_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ONELANE_GEMINI_API_KEY", "GEMINI_API_KEY")
    )
    #: Another server for the Gemini API, such as a proxy.
    gemini_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("ONELANE_GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL")
    )
    text_model: str = Field(default="gemini-3.8-flash", min_length=1)
    #: The offline model's address; used only without a Gemini key.
    offline_model_url: str | None = None
    #: Chromium's executable; searched for when unset.
    chromium: Path | None = None

    host: str = Field(default=DEFAULT_HOST, min_length=1)
    port: Port = DEFAULT_PORT
    demo_blog_port: Port = 8701
    offline_model_port: Port = 8702
    #: Worker processes of `onelane up`.
    processes: int = Field(default=1, ge=1, le=64)
    #: Steps that one worker process runs at a time.
    threads: int = Field(default=8, ge=1, le=256)
    #: The lanes that a worker serves; None: all.
    lanes: Annotated[tuple[str, ...] | None, NoDecode] = None

    reap_interval_seconds: float = Field(default=3600, gt=0)
    reap_idle_seconds: float = Field(default=86400, ge=0)
    #: The last ended jobs that are kept per account; those younger than `keep_jobs_seconds` are kept too.
    keep_completed_jobs: int = Field(default=100, ge=0)
    keep_failed_jobs: int = Field(default=50, ge=0)
    keep_jobs_seconds: float = Field(default=86400, ge=0)
    #: Older ended jobs are removed, whatever their number.
    keep_jobs_at_most_seconds: float = Field(default=90 * 86400, ge=0)
    #: Bytes of memory for one step's process; None: no limit.
    step_memory_limit: int | None = Field(default=None, ge=64 * 1024 * 1024)
    #: `/metrics` requires this key if it is set.
    metrics_key: SecretStr | None = None
    #: The port of a worker's own metrics, on `host`; None: no port. `up` gives its n-th worker this port + n - 1.
    worker_metrics_port: Port | None = None
    #: apprise URLs that alerts are sent to. They may contain tokens and passwords, so they are secrets.
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    #: Seconds between two messages about one kind, account and subject.
    alert_every: float = Field(default=900, ge=1, le=30 * 86400)
    #: Most messages to the alert URLs per hour.
    alerts_per_hour: int = Field(default=60, ge=1, le=100_000)
    #: Failed steps in a row after which an account's tenant queue is stopped; 0: never.
    circuit_failures: int = Field(default=5, ge=0, le=1_000_000)
    #: Seconds until one step may start as a canary; doubled while that fails, up to an hour.
    circuit_cooldown: float = Field(default=300, ge=1, le=30 * 86400)
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    max_batch_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    #: Most bytes of a request's head: its line and all header fields.
    max_header_bytes: int = Field(default=32 * 1024, ge=1024)
    max_headers: int = Field(default=100, ge=10)
    #: The time-out of the head, from the connection or from its first byte.
    header_timeout_seconds: float = Field(default=10, gt=0)
    #: The time-out of the body; large ones get a second more for each 8 KiB.
    body_timeout_seconds: float = Field(default=30, gt=0)
    #: The time-out of an idle connection; set it longer than that of a proxy before the service.
    idle_timeout_seconds: float = Field(default=75, gt=0)
    #: The time-out of a client that does not read its answer.
    send_timeout_seconds: float = Field(default=60, gt=0)
    #: Most connections of one address, health checks included, trusted proxies excepted; 0: no limit.
    max_connections_per_address: int = Field(default=256, ge=0)
    #: Most CPU seconds to parse and validate one request.
    max_request_cpu_seconds: float = Field(default=10, gt=0)
    #: Most calls of one key, counted by each control plane for itself; None (`off`): no limit.
    rate_limit_key: RateLimit = "10000/10 seconds"
    #: Most calls of one address without a key: the API's description, artifacts. Not health and metrics.
    rate_limit_address: RateLimit = "600/minute"
    #: Most wrong keys from one address, over all control planes; then its calls are refused.
    rate_limit_failures: RateLimit = "20/minute"
    #: Reverse proxies (addresses or networks) whose `X-Forwarded-For` is believed.
    trusted_proxies: Names = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    #: How long running steps may continue at an orderly stop.
    shutdown_grace_seconds: float = Field(default=30, ge=0)

    #: For the command-line client: the API's address and key. Found in the data directory when unset.
    url: str | None = None
    api_key: SecretStr | None = None

    @classmethod
    def load(cls, *, check_alert_urls: bool = True, **overrides: Any) -> Self:
        """The settings from overrides, environment, `.env` and TOML file; an override of None is left out.

        Without `check_alert_urls` apprise is not asked about them: for commands that send nothing, and for children of
        a process that has asked.

        Raises:
            SettingsError: with a sentence for each fault, and a suggestion for each unknown name.
        """
        checking = _CHECKING_ALERT_URLS.set(check_alert_urls)
        try:
            return cls._load(overrides)
        finally:
            _CHECKING_ALERT_URLS.reset(checking)

    @classmethod
    def _load(cls, overrides: Mapping[str, Any]) -> Self:
        dotenv = dotenv_faults()
        faults = config_file_faults() + dotenv + unknown_variables(os.environ, cls.model_fields)
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            settings = cls(_env_file=None, **given) if dotenv else cls(**given)
        except ValidationError as error:
            raise SettingsError(faults + [sentence(fault, cls.model_fields) for fault in error.errors()]) from None
        if faults:
            raise SettingsError(faults)
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path, faults = config_file(), config_file_faults()
        toml = () if path is None or faults else (TomlConfigSettingsSource(settings_cls, toml_file=path),)
        return (init_settings, env_settings, _OurDotEnv.like(dotenv_settings), *toml)

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_in_shape(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """A wrong entry is reported at the start, not at the first publish."""
        parse_allowed_hosts(value)
        return value

    @field_validator("rate_limit_key", "rate_limit_address", "rate_limit_failures", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() in ("off", "none", ""):
            return None
        if isinstance(value, str) and not _RATE.fullmatch(value.strip()):
            raise ValueError("it must be a number per time, such as 100/10 seconds or 600/minute, or off")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ipaddress.ip_network(each, strict=False)
            except ValueError:
                raise ValueError(f"{each!r} is no address and no network such as 10.0.0.0/8") from None
        return value

    @field_validator("pipelines", "publishers", "allowed_hosts", "lanes", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`a,b` and `["a","b"]` alike."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("alert_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: Any) -> Any:
        """Like `_split`, but a comma inside a URL does not split it."""
        if isinstance(value, str) and not value.lstrip().startswith("["):
            return tuple(part for part in re.split(r"[\s,]+(?=[a-zA-Z][a-zA-Z0-9+.-]*://)", value.strip()) if part)
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("alert_urls")
    @classmethod
    def _urls_in_shape(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """A wrong URL is reported at the start, by its position, because it may contain a secret."""
        if value and _CHECKING_ALERT_URLS.get():
            from actors.extras import ExtraMissing, require

            from .alerts.channels import faults_of  # apprise takes seconds to load

            try:
                require("alerts", "sending alerts")
            except ExtraMissing as error:
                raise ValueError(str(error)) from None
            faults = faults_of([url.get_secret_value() for url in value])
            if faults:
                raise ValueError("; ".join(faults))
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            folder = info.data.get("data_dir")
            # Quoted, because % and ? have another meaning in a URL.
            return f"sqlite:///{quote(str(folder))}/onelane.db" if folder else value
        from tenants.database.postgres_sessions import check_url

        check_url(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from tenants.queues import InvalidEntry, node_urls  # commands that need no broker start sooner

        try:
            node_urls(value)
        except InvalidEntry as error:
            raise ValueError(str(error).removeprefix("url: ")) from None
        return value

    @field_validator("gemini_base_url", "offline_model_url", "url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("it must start with http:// or https://")
        if value is not None and not _names_a_host(value):
            raise ValueError("it must be like http://host:port")  # not quoted: it may hold a password
        return value.rstrip("/") if value else value

    @field_validator("admin_key", "api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else ""
        if not (text.isascii() and text.isprintable()):
            raise ValueError("a key has only printable ASCII characters, since it is sent in a header")
        return value

    @field_validator("admin_key", "secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        parts = value.get_secret_value().split(",") if value is not None else []
        if any(len(part.strip()) < MINIMUM_KEY_CHARACTERS for part in parts):
            raise ValueError(
                f"a key needs at least {MINIMUM_KEY_CHARACTERS} characters; `onelane doctor --new-key` prints one"
            )
        return value

    def find_chromium(self) -> Path | None:
        """The browser to use: the one that is set, else an installed one; None when there is none."""
        return self.chromium or installed_chromium()

    def missing(self, *names: str) -> list[str]:
        """A sentence for each of the required settings that is not set."""
        return [
            f"{PREFIX}{name.upper()} is not set: {_PURPOSES[name]}" for name in names if getattr(self, name) is None
        ]


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


_PURPOSES = {
    "admin_key": "it is the HTTP API's key with scope admin; `onelane doctor --new-key` prints a fresh one",
    "secret_key": "sessions and credentials are sealed with it; `onelane doctor --new-key` prints a fresh one",
    "redis_url": "it is the Redis or Valkey that control plane and workers share; `onelane up` brings its own",
}


class _OurDotEnv(DotEnvSettingsSource):
    """`.env` without the lines of other programs, which lack our prefix."""

    @classmethod
    def like(cls, source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
        if not isinstance(source, DotEnvSettingsSource):
            return source
        return cls(source.settings_cls, env_file=source.env_file, env_file_encoding=source.env_file_encoding)

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        known = _known_names()
        return {
            name: value for name, value in found.items() if name in known or name.lower().startswith(PREFIX.lower())
        }


def installed_chromium() -> Path | None:
    """The first browser found on the path or in Playwright's cache."""
    found = [Path(path) for name in CHROMIUM_NAMES if (path := shutil.which(name))]
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "~/.cache/ms-playwright").expanduser()
    found += sorted(cache.glob("chromium_headless_shell-*/*/*headless*shell"), reverse=True)
    return next(iter(found), None)


def _known_names() -> set[str]:
    names = set(Settings.model_fields)
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names |= {choice for choice in field.validation_alias.choices if isinstance(choice, str)}
    return names
