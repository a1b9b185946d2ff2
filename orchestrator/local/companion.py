"""Serves the demo blog and the offline model, alone or below `onelane up`: on loopback, with the usual log lines.

They need no settings, so their start imports neither the settings' checks nor the command line.
"""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from .. import logs
from .supervisor import end_with_parent

if TYPE_CHECKING:
    from starlette.applications import Starlette

_STOP_SECONDS = 2

logger = logging.getLogger(__name__)


def options(name: str, description: str, *, port: int) -> argparse.ArgumentParser:
    """The options of both."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    return parser


def begin(given: argparse.Namespace) -> None:
    """Before the application is imported: start the log, and end this process with its supervisor."""
    if given.supervised:
        end_with_parent()
    logs.configure_as(given.log_level, given.log_format)


def serve(app: Starlette, given: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    logger.info("listening on http://%s:%d", given.host, given.port)
    uvicorn.run(
        app,
        host=given.host,
        port=given.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
