"""`onelane demo`: publishes a folder of texts for five accounts concurrently, and checks the result.

    texts.py     the folder's files as sources, and the accounts
    run.py       the order: start, jobs, watch, check, leave running
    progress.py  the live view, or plain lines without a terminal
    proof.py     what the attempts and the demo blog show afterwards
    report.py    the result, as JSON and as tables

Invariant: the next run on the same data directory continues an interrupted one, also after kill -9: it creates jobs
only for texts without one, and retries failed jobs from the failed step.
"""

from .run import run

__all__ = ["run"]
