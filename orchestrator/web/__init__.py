"""The control plane's HTTP API. `app.create_app` puts it together; `routing` says how a call is checked."""
