"""Every metric's name, labels and help text. No metric has an account as a label: series must not grow with them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

STEP_SECONDS = Histogram(
    "onelane_step_seconds",
    "Time that an attempt of a step ran, by lane, pipeline and step.",
    ("lane", "pipeline", "step"),
    buckets=(0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640),
    registry=REGISTRY,
)
ATTEMPTS = Counter(
    "onelane_attempts",
    "Attempts that ended, by lane, pipeline, step and outcome.",
    ("lane", "pipeline", "step", "outcome"),
    registry=REGISTRY,
)
REFUSED_STARTS = Counter(
    "onelane_refused_starts",
    "Claimed messages whose step the database did not let start, by lane; they go back with a short delay.",
    ("lane",),
    registry=REGISTRY,
)
REFUSED_WRITES = Counter(
    "onelane_refused_writes",
    "Results of attempts that did not own their step any more.",
    registry=REGISTRY,
)
LOST_ATTEMPTS = Counter(
    "onelane_lost_attempts",
    "Attempts taken from workers that died.",
    registry=REGISTRY,
)
REDISPATCHED = Counter(
    "onelane_redispatched_steps",
    "Queued steps that were sent to Redis by the dispatcher loop and not at once.",
    registry=REGISTRY,
)
REBUILDS = Counter(
    "onelane_rebuilds",
    "Rebuilds of Redis from SQL, after a loss of Redis was noticed.",
    registry=REGISTRY,
)
ORPHANED = Counter(
    "onelane_orphaned_messages",
    "Messages in Redis that had nothing to run by SQL, removed by the reconciler.",
    registry=REGISTRY,
)
BURIED = Counter(
    "onelane_buried_messages",
    "Messages that no worker could run (unknown actor, undecodable), moved from Redis to the dead letters.",
    registry=REGISTRY,
)
REAPED = Counter(
    "onelane_reaped_queues",
    "Idle tenant queues that were deleted.",
    registry=REGISTRY,
)
REFUSED_CALLS = Counter(
    "onelane_refused_calls",
    "Calls of the API that a rate limit refused, by limit (key, address, failures).",
    ("limit",),
    registry=REGISTRY,
)
REFUSED_CONNECTIONS = Counter(
    "onelane_refused_connections",
    "Connections that were ended before a request was whole, by reason: too_many or the code of the answer.",
    ("reason",),
    registry=REGISTRY,
)
SCHEDULE_FIRES = Counter(
    "onelane_schedule_fires",
    "Times of schedules that came, by outcome (fired, skipped, missed, refused).",
    ("outcome",),
    registry=REGISTRY,
)
ALERT_MESSAGES = Counter(
    "onelane_alert_messages",
    "Messages to the alert channels, by outcome: delivered, failed (tried again), given_up.",
    ("outcome",),
    registry=REGISTRY,
)
ALERTS_OVERDUE = Gauge(
    "onelane_alerts_overdue_seconds",
    "By how long the alert that waits longest for its message is late, where there are channels: the cap holds it.",
    registry=REGISTRY,
)
OPEN_CIRCUITS = Gauge(
    "onelane_open_circuits",
    "Tenant queues with work waiting whose circuit is open, by lane.",
    ("lane",),
    registry=REGISTRY,
)
LOOP_FAILURES = Counter(
    "onelane_loop_failures",
    "Runs of a background loop that failed, by loop.",
    ("loop",),
    registry=REGISTRY,
)
LANE_MESSAGES = Gauge(
    "onelane_lane_messages",
    "Messages in Redis, by lane and state (waiting, active, delayed).",
    ("lane", "state"),
    registry=REGISTRY,
)
LANE_OLDEST_WAIT = Gauge(
    "onelane_lane_oldest_wait_seconds",
    "How long the oldest waiting message of a lane has waited.",
    ("lane",),
    registry=REGISTRY,
)
LANE_READY_ACCOUNTS = Gauge(
    "onelane_lane_ready_accounts",
    "Accounts of a lane that could start something now.",
    ("lane",),
    registry=REGISTRY,
)
LANE_STARTS = Gauge(
    "onelane_lane_starts",
    "Messages of a lane started since its Redis was made; with the next, the mean dwell time of any span.",
    ("lane",),
    registry=REGISTRY,
)
LANE_DWELL = Gauge(
    "onelane_lane_dwell_seconds",
    "Seconds from arrival to start of all those messages together.",
    ("lane",),
    registry=REGISTRY,
)
INVARIANT_VIOLATIONS = Gauge(
    "onelane_invariant_violations",
    "Violations of the broker's invariants found (and repaired) in the last ten minutes, by lane; each is a fault.",
    ("lane",),
    registry=REGISTRY,
)
REDIS_UP = Gauge("onelane_redis_up", "Whether Redis answered the last time it was asked.", registry=REGISTRY)
DEGRADED = Gauge(
    "onelane_degraded",
    "1 while a part answers and does not take writes, by part and reason (disk_full, read_only, …); Redis also "
    "while its maxmemory-policy evicts keys (evicting).",
    ("part", "reason"),
    registry=REGISTRY,
)
NEEDS_REVIEW = Gauge(
    "onelane_drafts_needing_review",
    "Drafts whose publish has an unknown outcome, and that wait for a person; anything but 0 wants one.",
    registry=REGISTRY,
)
WORKERS = Gauge("onelane_workers", "Workers that are alive by the database's clock.", registry=REGISTRY)
HTTP_SECONDS = Histogram(
    "onelane_http_request_seconds",
    "Time to answer an HTTP request, by method, route and status class.",
    ("method", "route", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    registry=REGISTRY,
)
