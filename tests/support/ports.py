"""The worker's end of a step's port, for tests: in memory (`actors.testing`), or over a real database."""

from __future__ import annotations

from pydantic import BaseModel

from actors import testing as contexts
from actors.context import StepContext
from actors.declarations import CLIENT_NAMES, Declaration
from actors.testing import MemoryPort
from orchestrator.runtime import Runtime
from orchestrator.worker.step_journal import StepJournal
from orchestrator.worker.step_port import StepPort
from tenants.store.attempt import OwnedAttempt

#: For tests of parts that are not about declarations.
EVERYTHING = Declaration(CLIENT_NAMES, session=True, drafts=True, publication=True)


def step_port(
    runtime: Runtime, owned: OwnedAttempt, uses: Declaration = EVERYTHING, journal: StepJournal | None = None
) -> StepPort:
    """The worker's end of the port for an attempt that is under way."""
    return StepPort(owned, runtime, journal or StepJournal(owned, runtime.database), uses=uses)


class NoInput(BaseModel):
    """The input of a step that takes none."""


def make_context(port: MemoryPort, *, seconds: float = 300, attempt: int = 1) -> StepContext[NoInput]:
    """A context for one attempt of a step that takes no input, and may call everything."""
    return contexts.make_context(NoInput(), port, pipeline="blog", seconds=seconds, attempt=attempt)
