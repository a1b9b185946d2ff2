"""What another try of a step may do, by the effect that the step declares.

A step that is irreversible may be tried again after an attempt that said how it ended, an exception included: its code
knows. After one that was cut off (killed, timed out, lost with its worker) nobody knows, and the ledger is what tells:
the next attempt looks there first. The ledger belongs to the job's draft. A step without a draft keeps none, so it is
never simply run again: it ends with `outcome_unknown`, and a person looks. Unless its function was never entered: that
it is entered is recorded first (`step_port.ENTER`), and a refused record keeps it out.
"""

from __future__ import annotations

from collections.abc import Mapping

from actors import Pipeline

#: The end of the error's message; how the attempt was cut off comes before it.
OUTCOME_UNKNOWN_HINT = (
    "; the step is irreversible and keeps no ledger, so nobody can tell whether it took effect: look, and replay it "
    "only if it did not"
)


def is_irreversible(pipelines: Mapping[str, Pipeline], pipeline: str, step: str) -> bool:
    """Whether the step is declared so; one that is not loaded here is taken for the worst."""
    try:
        return pipelines[pipeline].step(step).effect == "irreversible"
    except KeyError:
        return True
