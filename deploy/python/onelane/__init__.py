"""The distribution's modules outside of its packages `actors`, `orchestrator` and `tenants`."""
