"""Opening what a command talks to, and closing it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from scheduler.terminal.passphrase import ask_passphrase
from workers.fleet import Ledger, LedgerUnreachable
from workers.repository import (
    PrivateKeys,
    Repository,
    Store,
    Tell,
    load_metadata_keys,
    load_private_keys,
    open_store,
)
from workers.settings import Settings


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """The live state. Raises LedgerUnreachable."""
    try:
        ledger = Ledger.open(settings)
    except LedgerUnreachable as error:
        if settings.redis.url is None:
            raise LedgerUnreachable(
                'no redis.url is configured, and no "cbtfleet up" with a Redis of its own is running here'
            ) from error
        raise
    with closing(ledger):
        yield ledger


@contextmanager
def open_repository(settings: Settings, tell: Tell | None = None) -> Iterator[Repository]:
    """The repository, to read and write everything but the disks' data.

    Who only reads gives `tell`: it gets what is wrong with `config`, which then stops nothing.
    """
    repository = settings.repository
    with closing(open_store(repository)) as store:
        if repository.metadata_key_file is None and repository.private_key_file is not None:
            # In an emergency there may be only the private key; it includes the metadata key.
            yield Repository.open(store, load_private_keys(store, repository, ask_passphrase, tell=tell))
        else:
            yield Repository.open(store, load_metadata_keys(store, repository, tell=tell))


@contextmanager
def open_for_reading(
    settings: Settings, tell: Tell | None = None
) -> Iterator[tuple[Store, PrivateKeys, Repository]]:
    """The repository with the private key: for restore and verify. Needs neither Redis nor a pool."""
    with closing(open_store(settings.repository)) as store:
        keys = load_private_keys(store, settings.repository, ask_passphrase, tell=tell)
        yield store, keys, Repository.open(store, keys)
