"""The changed-block logs of one disk: a chain of its snapshots, and what was written between them.

    snapshot 1 <- written - snapshot 2 <- written - snapshot 3 <- written - the disk

A snapshot that is destroyed leaves its log to the one after it. On storage in files a metadata snapshot does
not: what was before it cannot be compared with what comes after any more (sm, FileSR.py).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace


@dataclass
class _Link:
    """Up to `snapshot`, from the one before; "" is the disk itself. `broken`: that connection is lost."""

    snapshot: str = ""
    written: set[int] = field(default_factory=set)
    broken: bool = False


class ChangeLog:
    def __init__(self) -> None:
        self._links = [_Link()]

    def copy(self) -> ChangeLog:
        other = ChangeLog()
        other._links = [replace(link, written={*link.written}) for link in self._links]
        return other

    def write(self, block: int) -> None:
        self._links[-1].written.add(block)

    def snapshot(self, uuid: str) -> None:
        self._links[-1].snapshot = uuid
        self._links.append(_Link())

    def changed(self, first: str, last: str) -> Set[int] | None:
        """The blocks written from one snapshot to the other; None when that is not known."""
        names = [link.snapshot for link in self._links]
        if first not in names or last not in names or names.index(first) >= names.index(last):
            return None
        between = self._links[names.index(first) + 1 : names.index(last) + 1]
        if any(link.broken for link in between):
            return None
        return frozenset[int]().union(*(link.written for link in between))

    def destroy(self, snapshot: str, *, metadata_only: bool) -> None:
        """Nothing, when it is no snapshot of this disk."""
        for link, following in zip(self._links, self._links[1:], strict=False):
            if link.snapshot == snapshot:
                following.written |= link.written
                following.broken |= link.broken or metadata_only
                self._links.remove(link)
                return
