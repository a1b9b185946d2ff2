"""``python -m tests.chaos [--seed N] [--seconds N] [--database sqlite|postgresql]``: exit status 0 only if all held."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from .report import as_json, table
from .run import Scale, run_chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Attack the whole service, and judge.")
    parser.add_argument("--seed", type=int, default=None, help="replay a run's jobs and attacks")
    parser.add_argument("--seconds", type=float, default=180, help="how long the attacks last")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--accounts", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between attacks, on average")
    parser.add_argument("--keep", type=Path, help="keep the observer's file and the logs there")
    parser.add_argument("--json", type=Path, help="also write the verdicts there")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    scale = Scale(
        seconds=given.seconds,
        jobs=given.jobs,
        accounts=given.accounts,
        workers=given.workers,
        every=given.every,
    )
    kinds: tuple[Any, ...] = ("sqlite", "postgresql") if given.database == "both" else (given.database,)
    verdicts = []
    for kind in kinds:
        print(f"seed {seed}, {kind}", flush=True)
        verdicts.append(run_chaos(kind, seed, scale, say=lambda line: print(line, flush=True), keep=given.keep))
    print(table(verdicts))
    if given.json:
        given.json.write_text(json.dumps([as_json(verdict) for verdict in verdicts], indent=2))
    if not all(verdict.ok for verdict in verdicts):
        print(f"violations; the same jobs and attacks again: python -m tests.chaos --seed {seed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
