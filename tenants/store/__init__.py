"""Every query on account data: functions over a connection, one module a noun.

Each takes the account that asks, or an id that the caller has checked; state changes are single guarded UPDATEs.
"""
