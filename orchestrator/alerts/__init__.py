"""Alerts: what a person should hear of, from the store to the channels of the settings.

`texts` says it, `channels` sends it (by apprise), the loop `orchestrator.loops.alerts` decides when.
"""
