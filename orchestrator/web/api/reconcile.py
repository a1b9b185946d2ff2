"""Reconciliation of SQL and Redis on request; a loop does it after a loss of Redis."""

from __future__ import annotations

from pydantic import Field

from ...loops.reconciler import Reconciler
from ..http.auth import Access
from ..http.models import Answer, Nothing, Query
from ..http.routing import Call, Reply, Route


class Reconciled(Answer):
    """The differences that were found and repaired."""

    requeued: int = Field(description="Waiting steps that were missing in Redis.")
    released: int = Field(description="Steps that were taken from dead workers.")
    orphaned: int = Field(description="Messages in Redis without a step to run; they were removed.")


def reconcile(call: Call[Query, Nothing]) -> Reply:
    report = Reconciler(call.service.runtime).reconcile()
    done = {"requeued": report.requeued, "released": report.released, "orphaned": report.orphaned}
    return Reply(done, audit={"after": done})


ROUTES = [
    Route(
        "POST",
        "/v1/admin/reconcile",
        reconcile,
        "Rebuild the Redis queues from SQL",
        {200: Reconciled},
        tag="Queues",
        access=Access.ADMIN,
        description=(
            "Safe at any time. Tenant queues with lost keys are repaired first. After a loss of Redis it "
            "happens automatically, within seconds."
        ),
    ),
]
