"""Tests: unit, integration, properties, faults and acceptance; real servers come from `tests.support.servers`."""

from pathlib import Path

#: The checkout.
ROOT = Path(__file__).resolve().parents[1]
