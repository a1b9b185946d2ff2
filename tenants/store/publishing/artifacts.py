"""Evidence that attempts saved, such as screenshots; the files themselves are in the data directory."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, select

from ...database.models import Artifact, Step
from ..listings import fetch_one

artifacts, steps = Artifact.__table__, Step.__table__


def of_job(connection: Connection, job_id: str) -> Sequence[RowMapping]:
    """A job's artifacts with the name of their step, oldest first. The caller checks who may see the job."""
    statement = select(artifacts, steps.c.name.label("step")).join(steps, steps.c.id == artifacts.c.step_id)
    statement = statement.where(artifacts.c.job_id == job_id).order_by(artifacts.c.id)
    return connection.execute(statement).mappings().all()


def fetch(connection: Connection, artifact_id: str) -> RowMapping:
    """One artifact, for a caller with a signed address.

    Raises:
        NotFound: it does not exist, or was removed with its job.
    """
    statement = select(artifacts).where(artifacts.c.id == artifact_id)
    return fetch_one(connection, statement, f"there is no artifact {artifact_id!r}")
