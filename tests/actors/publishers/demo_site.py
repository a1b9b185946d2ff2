"""The demo blog that the publishers' tests run against, and the processes of their browsers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

from orchestrator.demo_blog.faults import Faults
from orchestrator.demo_blog.store import BlogStore

PASSWORD = "a long enough password"


@dataclass(frozen=True, slots=True)
class DemoBlog:
    """A running demo blog, with the store behind it and the faults that can be set."""

    url: str
    store: BlogStore
    faults: Faults

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


def browser_processes() -> list[psutil.Process]:
    """The processes of all browsers below this one; those that have ended since they were listed are left out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "chrom" in process.name():
                found.append(process)
    return found


def kill_browsers() -> None:
    """Kill them all. The death of the first ends others by itself, maybe before it is their turn."""
    for process in browser_processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
