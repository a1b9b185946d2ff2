"""Process isolation: runs each step in a process tree of its own, and makes sure that the tree ends.

The processes, with the module that each one runs; `docs/decisions/isolation.md` has the reasons::

    worker ──┬── guard                    guard_process.py     ends trees when the worker dies or is silent
             └── zygote                   zygote.py            has the modules loaded; forks on request
                   └── supervisor         step_supervisor.py   one per step: adopts every orphan of the step's tree
                         └── child        child.py             runs the step's function
                               └── …      processes that the step starts: a browser, its driver, …

Guard, zygote and supervisors detect a silent worker by `heartbeat.py`. `process_tag.py` finds a step's processes when
all their parents are dead. The worker's side is `orchestrator.isolation.guard` and `orchestrator.isolation.sandbox`.
"""
