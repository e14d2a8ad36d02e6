"""Each test here plays the holder of one credential against real processes.

It is judged by what a person sees: the processes' logs and exit codes, the pool's own state, restored bytes.
"""

from __future__ import annotations

from tests.acceptance.conftest import make_fleet, s3_place
from tests.unit.scheduler.conftest import make_site

__all__ = ["make_fleet", "make_site", "s3_place"]
