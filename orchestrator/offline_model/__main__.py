"""Serve the offline model alone: ``python -m orchestrator.offline_model --port 8702``."""

from __future__ import annotations

from ..local import companion


def main() -> None:
    given = companion.options("offline_model", "A model that needs no key.", port=8702).parse_args()
    companion.begin(given)
    from .app import create_app

    companion.serve(create_app(), given)


if __name__ == "__main__":
    main()
