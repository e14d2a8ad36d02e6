"""What is read of a repository with one object harmed, held against what it gives unharmed."""

from __future__ import annotations

from tests.damage.bucket import Bucket, Damaged, outcome
from tests.repository_machine import MemoryStore
from workers.repository import verify_points
from workers.repository.naming import parse_supplement


class Judge:
    """Reads everything of a repository with one object harmed, and compares with what it gives unharmed."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.store = MemoryStore()
        self.store.objects = dict(bucket.objects)
        self._right = {name: outcome(reading, self.store) for name, reading in bucket.readings().items()}
        assert not [said for said in self._right.values() if isinstance(said, Damaged)]
        for (point, vdi), content in bucket.contents.items():
            assert self._right[f"disk {vdi} of {point}"] == content
        self._users = self._who_reads_what()

    def _who_reads_what(self) -> dict[str, set[str]]:
        """For each object, the names of the readings that ask for it."""
        found: dict[str, set[str]] = {key: set() for key in self.bucket.objects}
        for name, reading in self.bucket.readings().items():
            self.store.requests.clear()
            outcome(reading, self.store)
            for verb, key in self.store.requests:
                if verb in ("get", "head"):
                    found[key].add(name)
        return found

    def judge(self, key: str, harmed: bytes | None, *, other_object: bool = False) -> list[str]:
        """What was said of the object, when it is `harmed` or (None) gone.

        `other_object`: what is there is well sealed, so that the contradiction may show at another object.
        """
        self.store.objects = self.bucket.objects | {key: harmed or b""}
        if harmed is None:
            del self.store.objects[key]
        readings, said = self.bucket.readings(), []
        for name in self._users[key]:
            if other_object and name.startswith(("the list", "point")):
                continue  # it is a point, and says what it says
            found = outcome(readings[name], self.store)
            if isinstance(found, Damaged):
                assert (key if not other_object else "object ") in found.text, (name, found.text)
                assert "\n" not in found.text, (name, found.text)
                said.append(found.text)
            else:
                assert found == self._right[name], f"{name}: other bytes than were backed up"
        return said

    def readings_without(self, key: str) -> list[tuple[str, object]]:
        """What each reading gives that asks for the object, when that is gone."""
        self.store.objects = {name: data for name, data in self.bucket.objects.items() if name != key}
        readings = self.bucket.readings()
        return [(name, outcome(readings[name], self.store)) for name in self._users[key]]

    def used_by_points(self) -> list[str]:
        """The objects that are read to restore something."""
        restoring = ("disk", "metadata", "plan")
        return [
            key for key, users in self._users.items() if any(name.startswith(restoring) for name in users)
        ]

    def verified(self, key: str, harmed: bytes | None) -> set[str]:
        """The objects that `verify` names."""
        self.store.objects = self.bucket.objects | {key: harmed or b""}
        if harmed is None:
            del self.store.objects[key]
        found = verify_points(self.store, self.bucket.keys, self.bucket.points, threads=1)
        return {damage.object for damage in found.damaged}


def kind_of(key: str) -> str:
    if parse_supplement(key):
        return "supplements"
    return key.split("/")[0] if not key.startswith("runs/") else "runs/" + key.split("/")[2]
