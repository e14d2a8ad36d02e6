"""The repository that is damaged, encrypted and not: made once a session."""

from __future__ import annotations

import pytest

from tests.damage.bucket import Bucket
from tests.damage.judge import Judge
from tests.repository_machine import ENCRYPTED, PLAIN
from workers.repository import PrivateKeys, write_segments


def made(keys: PrivateKeys, seed: int = 7) -> Bucket:
    """Two layers are merged already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_segments, "MAX_LAYERS", 1)
        return Bucket(keys, seed=seed)


@pytest.fixture(scope="session", params=["encrypted", "unencrypted"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    return made(ENCRYPTED if request.param == "encrypted" else PLAIN)


@pytest.fixture(scope="session")
def another(bucket: Bucket) -> Bucket:
    """Made with the same keys, at the same times, of other disks' content."""
    return made(bucket.keys, seed=1000)


@pytest.fixture(scope="session")
def judge(bucket: Bucket) -> Judge:
    return Judge(bucket)
