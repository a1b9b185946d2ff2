"""The background loops of a control plane, one a module, each with `run_once`.

Any number of control planes may run them at once: constraints and guarded updates in the database decide which of them
does what, so no leader is needed.
"""
