"""Steps by their state, in the very words of the partial indexes.

Where a state comes as a parameter SQLite uses no partial index, and reads the whole table; PostgreSQL neither, once it
has made a plan for any parameters.
"""

from __future__ import annotations

from sqlalchemy import literal_column

from ..models import Step

_status = Step.__table__.c.status

#: In a tenant queue, or delayed.
WAITING = _status.in_((literal_column("'queued'"), literal_column("'retrying'")))
RUNNING = _status == literal_column("'running'")
