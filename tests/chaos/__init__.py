"""The whole service under attack, judged from outside: ``make chaos``, or ``python -m tests.chaos --seed N``.

    controller (this package's `__main__`) ── makes jobs, attacks, waits, judges
       ├── observer        a server of its own; every effect of a step goes there and nowhere else
       ├── proxy           stands before Redis and PostgreSQL for each process, and cuts or holds connections
       ├── Valkey, PostgreSQL
       ├── control 1 … n   the loops
       └── worker 1 … n    real workers with guard, zygote and step processes

The seed decides jobs and attacks. How they meet is up to the machine; the observer's file and the schedule report it.
"""
