"""Fixtures shared by unit tests."""

from tests.fleet_clock import fleet

__all__ = ["fleet"]
