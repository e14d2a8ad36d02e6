"""The repository that is damaged, encrypted and not: made once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.damage.bucket import Bucket
from tests.damage.judge import Judge
from tests.repository_machine import ENCRYPTED, PLAIN
from workers.repository import write_segments


@pytest.fixture(scope="session")
def one_layer() -> Iterator[None]:
    """Two layers are merged already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_segments, "MAX_LAYERS", 1)
        yield


@pytest.fixture(scope="session", params=["encrypted", "unencrypted"])
def bucket(request: pytest.FixtureRequest, one_layer: None) -> Bucket:
    return Bucket(ENCRYPTED if request.param == "encrypted" else PLAIN)


@pytest.fixture(scope="session")
def another(bucket: Bucket) -> Bucket:
    """Made with the same keys, at the same times, of other disks' content."""
    return Bucket(bucket.keys, seed=1000)


@pytest.fixture(scope="session")
def judge(bucket: Bucket) -> Judge:
    return Judge(bucket)
