"""Process isolation: where a step runs, and what makes sure that it ends.

`docs/decisions/isolation.md` draws the processes. In short, with the module that each one runs::

    worker ──┬── guard                    guard_process.py   ends trees when the worker dies or falls silent
             └── zygote                   zygote.py          modules preloaded; forks on request
                   └── keeper             keeper.py          one a step: adopts every orphan of the step's tree
                         └── child        child.py           runs the step's function
                               └── …      whatever the step starts: a browser, its driver, …

`heartbeat.py` is how guard, zygote and keepers each notice that the worker is silent; `mark.py` is how a step's
processes are found when all their parents are gone.

The worker's side is `orchestrator.guard` and `orchestrator.sandbox`; beside them only the worker's own modules import
this package, for the clock and the environment.
"""
