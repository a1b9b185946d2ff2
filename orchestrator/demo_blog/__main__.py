"""Serve the demo blog alone: ``python -m orchestrator.demo_blog --data-dir DIR --port 8701 [--faults]``."""

from __future__ import annotations

from pathlib import Path

from ..local import companion


def main() -> None:
    parser = companion.options("demo_blog", "A small blog site to try onelane on.", port=8701)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--faults", action="store_true", help="serve /-/faults, which makes it misbehave; for tests")
    given = parser.parse_args()
    companion.begin(given)
    from .app import create_app
    from .faults import Faults

    companion.serve(create_app(given.data_dir, faults=Faults() if given.faults else None), given)


if __name__ == "__main__":
    main()
