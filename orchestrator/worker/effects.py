"""Whether a step may be retried, by the effect that it declares.

An irreversible step may be retried after an attempt that ended by itself, also by an exception. After an attempt that
was cut off (killed, timed out, lost with its worker) its outcome is unknown, and the next attempt checks the ledger of
the job's draft first. A step without a draft has no ledger, so it is not retried: it ends with `outcome_unknown`, and a
person must check it. It is retried if its function was not entered: the entering is recorded first (`step_port.ENTER`),
and the function is not entered without the record.
"""

from __future__ import annotations

from collections.abc import Mapping

from actors import Pipeline

#: The end of the error's message, after how the attempt was cut off.
OUTCOME_UNKNOWN_HINT = (
    "; the step is irreversible and has no ledger, so it is unknown whether it took effect: check, and replay it only "
    "if it did not"
)


def is_irreversible(pipelines: Mapping[str, Pipeline], pipeline: str, step: str) -> bool:
    """Whether the step is declared irreversible; True for one that is not loaded here."""
    try:
        return pipelines[pipeline].step(step).effect == "irreversible"
    except KeyError:
        return True
