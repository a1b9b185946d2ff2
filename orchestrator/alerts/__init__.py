"""Alerts for people, sent to the channels in the settings.

`texts` writes them, `channels` sends them with apprise, and the loop `orchestrator.loops.alerts` decides when.
"""
