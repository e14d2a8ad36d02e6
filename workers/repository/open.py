"""Chooses the store by the url of the settings."""

from __future__ import annotations

from workers.repository.directory_store import DirectoryStore
from workers.repository.s3_store import S3Store
from workers.repository.store import Store
from workers.settings import RepositorySettings


def open_store(settings: RepositorySettings) -> Store:
    """The store of `s3://bucket/prefix` or `file:///folder`. Close it when done; open it after any fork.

    Raises ConfigurationError, CredentialsMissing, or BucketMissing for a folder that is not there; whether
    a bucket can be reached shows at the first request.
    """
    if settings.url.startswith("s3://"):
        return S3Store.open(settings)
    return DirectoryStore.open(settings)
