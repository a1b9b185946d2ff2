"""What attempts left behind as evidence, such as screenshots; the files themselves lie under the data directory."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, select

from ..errors import NotFound
from ..models import Artifact, Step

artifacts, steps = Artifact.__table__, Step.__table__


def of_job(connection: Connection, job_id: str) -> Sequence[RowMapping]:
    """A job's artifacts with the name of their step, oldest first. Whether the job may be seen, the caller knows."""
    return (
        connection.execute(
            select(artifacts, steps.c.name.label("step"))
            .join(steps, steps.c.id == artifacts.c.step_id)
            .where(artifacts.c.job_id == job_id)
            .order_by(artifacts.c.id)
        )
        .mappings()
        .all()
    )


def fetch(connection: Connection, artifact_id: str) -> RowMapping:
    """One artifact, for somebody who was given its address.

    Raises:
        NotFound: it is not there, or went with its job.
    """
    found = connection.execute(select(artifacts).where(artifacts.c.id == artifact_id)).mappings().one_or_none()
    if found is None:
        raise NotFound(f"there is no artifact {artifact_id!r}")
    return found
