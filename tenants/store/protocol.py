"""Which releases may work on one installation's data at the same time.

Processes of different releases exchange rows, messages and settings. Compatible releases have the same protocol number
and run side by side during an upgrade. A release that is not compatible with its predecessor has the next number, which
its `onelane migrate` stores. A process with a smaller number refuses to start, and a running worker stops gracefully.

Migrations alone do not raise the number: each leaves the schema usable by the release before.
"""

from __future__ import annotations

from sqlalchemy import Connection

from ..database.transactions import Database
from ..errors import OnelaneError
from . import meta

#: Of this release. CONTRIBUTING.md explains when to raise it.
PROTOCOL = 1
_KEY = "protocol"


class NewerRelease(OnelaneError):
    """The data were migrated to a protocol that this release does not know."""


def of(connection: Connection) -> int:
    return int(meta.get_many(connection, _KEY).get(_KEY, "1"))


def check(database: Database) -> None:
    """Refuse data of a newer protocol.

    Raises:
        NewerRelease: this release must not use the data.
        Unavailable: the database cannot be reached.
    """
    found = database.read(of)
    if found > PROTOCOL:
        raise NewerRelease(
            f"the data belong to a newer release of onelane (protocol {found}; this one has {PROTOCOL}): "
            "start that release; to go back, restore the backup that was made before `onelane migrate`"
        )


def take_over(connection: Connection) -> None:
    """Store this release's number, unless a larger one is stored."""
    if of(connection) < PROTOCOL:
        meta.put(connection, _KEY, str(PROTOCOL))
