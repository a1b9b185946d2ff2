"""Names and limits of webhook deliveries, without imports, so that steps can use them.

A delivery is a job of the built-in pipeline `webhook`, of the account whose job ended (`docs/decisions/webhooks.md`).
"""

from __future__ import annotations

PIPELINE = "webhook"
LANE = "webhook"
STEP = "deliver"
#: Attempts in all, and the least and greatest seconds between two: together about a day.
MAX_ATTEMPTS = 20
BACKOFF_SECONDS = (5.0, 4 * 3600.0)
#: Seconds for one attempt, from the DNS look-up to the answer's last byte.
TIME_LIMIT_SECONDS = 10.0
