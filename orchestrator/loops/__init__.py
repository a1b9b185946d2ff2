"""The loops: scheduler, dispatcher, rescuer, reaper, pruner, reconciler, eraser; one module each, each with `run_once`.

Any number of control planes may run them at once: the database's constraints and guarded updates decide who did what,
so no leader is needed.
"""
