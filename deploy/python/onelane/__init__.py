"""What the distribution has beside its packages `actors`, `orchestrator` and `tenants`."""
