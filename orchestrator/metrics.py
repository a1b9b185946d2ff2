"""Every metric's name, labels and help text. No label is an account: the number of series must not grow with them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


STEP_SECONDS = Histogram(
    "onelane_step_seconds",
    "Time that an attempt of a step ran, by lane, pipeline and step.",
    ("lane", "pipeline", "step"),
    buckets=(0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
    registry=REGISTRY,
)
ATTEMPTS = _counter(
    "onelane_attempts",
    "Attempts that ended, by lane, pipeline, step and outcome.",
    "lane",
    "pipeline",
    "step",
    "outcome",
)
REFUSED_STARTS = _counter(
    "onelane_refused_starts",
    "Claimed messages whose step the database refused to start, by lane; they go back with a short delay.",
    "lane",
)
REFUSED_WRITES = _counter("onelane_refused_writes", "Refused writes of attempts that no longer owned their step.")
LOST_ATTEMPTS = _counter("onelane_lost_attempts", "Attempts taken from workers that died.")
REDISPATCHED = _counter(
    "onelane_redispatched_steps",
    "Queued steps that the dispatcher loop sent to Redis, because they were not sent at once.",
)
REBUILDS = _counter("onelane_rebuilds", "Rebuilds of Redis from SQL, after a loss of Redis was detected.")
ORPHANED = _counter(
    "onelane_orphaned_messages", "Messages in Redis without a step to run in SQL, removed by the reconciler."
)
BURIED = _counter(
    "onelane_buried_messages",
    "Messages that no worker could run (unknown actor, undecodable), moved from Redis to the dead letters.",
)
REAPED = _counter("onelane_reaped_queues", "Idle tenant queues that were deleted.")
REFUSED_CALLS = _counter(
    "onelane_refused_calls", "API calls that a rate limit refused, by limit (key, address, failures).", "limit"
)
REFUSED_CONNECTIONS = _counter(
    "onelane_refused_connections",
    "Connections that were closed before a request was complete, by reason: too_many or the code of the answer.",
    "reason",
)
SCHEDULE_FIRES = _counter(
    "onelane_schedule_fires", "Due times of schedules, by outcome (fired, skipped, missed, refused).", "outcome"
)
ALERT_MESSAGES = _counter(
    "onelane_alert_messages",
    "Messages to the alert channels, by outcome: delivered, failed (retried), given_up.",
    "outcome",
)
ALERTS_OVERDUE = _gauge(
    "onelane_alerts_overdue_seconds",
    "How late the longest waiting alert is, where there are channels; the hourly cap delays it.",
)
OPEN_CIRCUITS = _gauge(
    "onelane_open_circuits", "Tenant queues with work waiting whose circuit is open, by lane.", "lane"
)
LOOP_FAILURES = _counter("onelane_loop_failures", "Runs of a background loop that failed, by loop.", "loop")
LANE_MESSAGES = _gauge(
    "onelane_lane_messages", "Messages in Redis, by lane and state (waiting, active, delayed).", "lane", "state"
)
LANE_OLDEST_WAIT = _gauge(
    "onelane_lane_oldest_wait_seconds", "How long the oldest waiting message of a lane has waited.", "lane"
)
LANE_READY_ACCOUNTS = _gauge(
    "onelane_lane_ready_accounts", "Accounts of a lane that could start something now.", "lane"
)
LANE_STARTS = _gauge(
    "onelane_lane_starts",
    "Messages of a lane started since its keys were created; with the next metric, the mean dwell time of any period.",
    "lane",
)
LANE_DWELL = _gauge("onelane_lane_dwell_seconds", "Sum of the seconds from arrival to start of these messages.", "lane")
INVARIANT_VIOLATIONS = _gauge(
    "onelane_invariant_violations",
    "Violations of the broker's invariants found (and repaired) in the last ten minutes, by lane; each is a fault.",
    "lane",
)
REDIS_UP = _gauge("onelane_redis_up", "Whether Redis answered the last request.")
DEGRADED = _gauge(
    "onelane_degraded",
    "1 while a part answers but takes no writes, by part and reason (disk_full, read_only, …); Redis also "
    "while its maxmemory-policy evicts keys (evicting).",
    "part",
    "reason",
)
NEEDS_REVIEW = _gauge(
    "onelane_drafts_needing_review", "Drafts whose publish has an unknown outcome, and that a person must check."
)
WORKERS = _gauge("onelane_workers", "Workers that are alive by the database's clock.")
HTTP_SECONDS = Histogram(
    "onelane_http_request_seconds",
    "Time to answer an HTTP request, by method, route and status class.",
    ("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    registry=REGISTRY,
)
