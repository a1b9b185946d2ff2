"""Which releases may work on one installation's data at a time.

Processes of different releases exchange rows, messages and settings. As long as they understand each other they have
one protocol number, and run side by side while an installation is upgraded. A release that the one before cannot
understand has the next number; `onelane migrate` of it writes that number down. A process with a smaller one refuses to
start, and a worker that runs with a smaller one stops in order.

Migrations do not raise it by themselves: they are made so that the release before can work on.
"""

from __future__ import annotations

from sqlalchemy import Connection

from ..database import Database
from ..errors import OnelaneError
from . import meta

#: Of this release. CONTRIBUTING.md says when it is raised.
PROTOCOL = 1
_KEY = "protocol"


class NewerRelease(OnelaneError):
    """A newer release has taken the data over, in a way that this one does not understand."""


def of(connection: Connection) -> int:
    return int(meta.get_many(connection, _KEY).get(_KEY, "1"))


def check(database: Database) -> None:
    """Refuse data of a newer protocol.

    Raises:
        NewerRelease: this release must not work on the data.
        Unavailable: the database cannot be reached.
    """
    found = database.read(of)
    if found > PROTOCOL:
        raise NewerRelease(
            f"the data belong to a newer release of onelane (protocol {found}; this one has {PROTOCOL}): "
            "start that release; to go back, restore the backup that was made before `onelane migrate`"
        )


def take_over(connection: Connection) -> None:
    """Write this release's number down; a larger one stays."""
    if of(connection) < PROTOCOL:
        meta.put(connection, _KEY, str(PROTOCOL))
