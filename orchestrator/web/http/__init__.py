"""How a call is checked: routing, authentication, bodies, problems, idempotency, limits."""
