"""A supervised child that says when it may begin."""

from orchestrator.local.supervisor import end_with_parent

may_begin = end_with_parent()
print("started", flush=True)
may_begin.wait()
print("began", flush=True)
may_begin.clear()
may_begin.wait()
