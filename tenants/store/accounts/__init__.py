"""Accounts with their keys, tenant queues, lanes, circuits, settings and usage."""
