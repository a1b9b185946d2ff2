"""What an account owns: identity, keys, queues, rows, sessions. The isolation boundary.

This package imports neither `actors` nor `orchestrator`; `tenants.queues` is usable alone, as a Dramatiq broker.
"""
