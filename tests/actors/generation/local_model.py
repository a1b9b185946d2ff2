"""The offline model that the tests of generation run against."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.offline_model.faults import Faults

#: What stands for a secret key in these tests; no message may contain it.
KEY = "AIzaSy-a-key-that-must-not-leak"


@dataclass
class OfflineModel:
    """A running offline model."""

    url: str
    faults: Faults
