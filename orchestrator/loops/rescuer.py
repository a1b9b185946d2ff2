"""Ends the attempts of dead workers: by the database's clock, 15 s after their last heartbeat.

By then the worker's guard has killed the steps' processes (8 s + 2 s), so no step runs twice at the same time. It also
moves steps that wait on a lane that their pipeline no longer uses and no worker serves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from sqlalchemy import Connection, RowMapping

from tenants.errors import OwnershipLost
from tenants.store import workers as store
from tenants.store.jobs import lane_moves
from tenants.store.steps import finish as finish_steps

from .. import metrics
from ..control.circuits import circuit_policy
from ..runtime import Runtime
from ..worker.effects import OUTCOME_UNKNOWN_HINT, is_irreversible

log = logging.getLogger(__name__)

#: Steps of a lane that are moved in one transaction.
_MOVED_AT_ONCE = 500


class Rescuer:
    """See the module's docstring."""

    name = "rescuer"
    interval_seconds = 2.0

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run_once(self) -> bool:
        self.rescue()
        self.move_from_unserved_lanes()
        return False

    def move_from_unserved_lanes(self) -> list[str]:
        """Move steps from lanes that no pipeline uses to their pipeline's present lane; returns their ids.

        A lane that a live worker serves is left alone: that worker, of the release before, runs the steps.
        """
        database = self._runtime.database
        unserved = set(database.read(lane_moves.waiting_lanes)) - set(self._runtime.lanes)
        if unserved:
            unserved -= {lane for worker in database.read(store.live) for lane in worker["lanes"]}
        lane_of = {
            (pipeline.name, step.name): step.lane
            for pipeline in self._runtime.pipelines.values()
            for step in pipeline.steps
        }
        moved: list[str] = []
        for lane in sorted(unserved):

            def move(connection: Connection, lane: str = lane) -> Collection[tuple[str, str]]:
                return lane_moves.move(connection, lane, lane_of, limit=_MOVED_AT_ONCE)

            found = database.write(move)
            if found:
                log.warning("%d step(s) were moved from lane %s, which no pipeline uses", len(found), lane)
            moved += [step_id for step_id, _ in found]
        return moved

    def rescue(self) -> list[str]:
        """End the attempts of dead workers; returns the ids of their steps."""
        database = self._runtime.database
        for worker_id in database.write(store.declare_dead):
            log.warning("worker %s is dead: it has sent no heartbeat for %.0f s", worker_id, store.DEAD_SECONDS)
        circuit = circuit_policy(self._runtime.settings)
        taken = []
        for step in database.read(store.abandoned_steps):
            hint = OUTCOME_UNKNOWN_HINT if self._is_irreversible(step) else None

            def take(connection: Connection, step: RowMapping = step, hint: str | None = hint) -> None:
                finish_steps.lose(connection, step["id"], step["run_token"], unless_known=hint, circuit=circuit)

            try:
                database.write(take)
            except OwnershipLost:
                continue  # another control plane's rescuer, or the attempt's own late write, was faster
            metrics.LOST_ATTEMPTS.inc()
            log.warning("step %s was taken from worker %s", step["id"], step["worker_id"])
            taken.append(step["id"])
            if circuit is not None and step["lost"] >= finish_steps.LOST_BUDGET:
                self._runtime.settings_sync.sync_account(step["account"])  # it may have opened a circuit
        return taken

    def _is_irreversible(self, step: RowMapping) -> bool:
        return is_irreversible(self._runtime.pipelines, step["pipeline"], step["name"])
