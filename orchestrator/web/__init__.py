"""The control plane's HTTP API. `app.create_app` makes it; `routing` says how a call is checked."""
