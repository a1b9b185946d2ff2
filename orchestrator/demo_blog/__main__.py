"""Serve the demo blog alone: ``python -m orchestrator.demo_blog --data-dir DIR --port 8701 [--faults]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from .app import create_app
from .faults import Faults


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo_blog", description="A small blog site to try onelane on.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8701)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--faults", action="store_true", help="serve /-/faults, which makes it misbehave; for tests")
    given = parser.parse_args()
    app = create_app(given.data_dir, faults=Faults() if given.faults else None)
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
