"""The worker process: executes steps, gives them what they ask for, and writes their outcomes."""
