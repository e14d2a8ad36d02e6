"""What the repository tells of its restore points and runs: two listings, and for each VM a point or two."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scheduler.checks.drives import Chosen
from workers.repository import (
    ListedPoint,
    MetadataKeys,
    NewestDisks,
    Repository,
    Store,
    list_points,
    load_metadata_keys,
    newest_disks,
    open_store,
)
from workers.repository.parallel import in_parallel
from workers.settings import RepositorySettings

POINTS_OF_A_VM = 4
"""Read for each VM at most: a disk that none of its newest four points holds is as good as new."""

THREADS = 8


@dataclass(frozen=True)
class RepositoryFacts:
    store: Store
    keys: MetadataKeys
    points: Mapping[str, Sequence[ListedPoint]]
    """By VM uuid, the newest last."""
    runs: Collection[str]
    open_runs: Collection[str]

    @property
    def repository_id(self) -> str:
        return self.keys.repository

    def last_disks(self, chosen: Sequence[Chosen]) -> Iterator[tuple[Chosen, NewestDisks]]:
        """Each VM with its disks as its newest points have them."""

        def read(each: Chosen) -> NewestDisks:
            disks = {str(drive.disk["uuid"]) for drive in each.drives}
            points = self.points.get(each.vm.uuid, ())
            return newest_disks(self.store, self.keys, points, disks, POINTS_OF_A_VM)

        tasks = (lambda each=each: read(each) for each in chosen)
        found = in_parallel(tasks, THREADS)
        try:
            yield from zip(chosen, found, strict=True)
        finally:
            found.close()


def read_repository(settings: RepositorySettings) -> RepositoryFacts:
    """Opens the store for as long as the process needs it. Raises ConfigurationError or StoreError."""
    store = open_store(settings)
    try:
        keys = load_metadata_keys(store, settings)
        repository = Repository.open(store, keys)
        return RepositoryFacts(
            store=store,
            keys=keys,
            points=list_points(store),
            runs=repository.run_names(),
            open_runs=set(repository.open_runs()),
        )
    except BaseException:
        store.close()
        raise


@contextmanager
def closing_store(facts: RepositoryFacts | None) -> Iterator[None]:
    try:
        yield
    finally:
        if facts is not None:
            facts.store.close()
