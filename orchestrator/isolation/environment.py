"""The environment variables that a step may see: an allow-list, and a check of additions to it.

Invariant: no address or credential of onelane itself (database, Redis, keys) reaches zygote, guard or step. A step gets
what it needs through its context.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PASSED_NAMES = frozenset(
    "PATH HOME USER LOGNAME LANG LANGUAGE TZ SSL_CERT_FILE SSL_CERT_DIR LD_LIBRARY_PATH PLAYWRIGHT_BROWSERS_PATH "
    "HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy XDG_CACHE_HOME XDG_CONFIG_HOME "
    "PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX".split()
)
PASSED_PREFIXES = ("LC_",)
_FORBIDDEN = re.compile(r"DATABASE|REDIS|VALKEY|SECRET|ADMIN|PASSWORD|TOKEN|API_KEY", re.IGNORECASE)


def allowed_environment(source: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of `source` that steps may see, and `extra`.

    Raises:
        ValueError: a name in `extra` sounds like a secret; see `check_environment`.
    """
    passed = {name: value for name, value in source.items() if name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)}
    passed.update(extra or {})
    check_environment(passed)
    return passed


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise ValueError if a variable must not reach a step; the message names all of them."""
    forbidden = sorted(name for name in environment if _FORBIDDEN.search(name))
    if forbidden:
        raise ValueError(
            f"steps must not see {', '.join(forbidden)}: give them what they need through their context instead"
        )
