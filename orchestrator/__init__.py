"""The running service: control plane, worker, loops and command line. Nothing imports it."""
