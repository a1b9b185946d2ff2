"""Conditions on a step's status, written as the partial indexes have them.

With the status as a parameter SQLite does not use a partial index and reads the whole table; PostgreSQL neither, once
it has a generic plan.
"""

from __future__ import annotations

from sqlalchemy import literal_column

from ..database.models import Step

_status = Step.__table__.c.status

#: In a tenant queue, or delayed.
WAITING = _status.in_((literal_column("'queued'"), literal_column("'retrying'")))
RUNNING = _status == literal_column("'running'")
