"""Tests: unit, integration, properties, faults and acceptance; real servers come from `tests.servers`."""
