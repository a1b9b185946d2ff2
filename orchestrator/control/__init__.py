"""The control plane's calls: create, steer, schedule, dispatch and explain jobs, and report what happened to them."""
