"""Workers killed with SIGKILL in the middle of publishing: nothing lost, nothing twice.

Real worker processes, real Chromium, a real target (the demo blog, WordPress). The short form runs under pytest; the
long one is ``python -m tests.crashes --demo 20 --wordpress 5``.
"""
