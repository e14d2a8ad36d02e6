"""The proofs of scheduler/pool_objects, taken away one at a time in the process that plays the courses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from scheduler.pool_objects import destruction, fate


@dataclass(frozen=True)
class Guard:
    """`changes`: texts that are once in the module, and what stands there instead."""

    name: str
    module: ModuleType
    changes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def taken_away(self) -> Iterator[None]:
        file = str(self.module.__file__)
        source = Path(file).read_text(encoding="utf-8")
        for old, new in self.changes:
            assert source.count(old) == 1, f"{file} no longer holds this text once: {old!r}"
            source = source.replace(old, new)
        broken: dict[str, Any] = {"__name__": self.module.__name__}
        exec(compile(source, file, "exec"), broken)
        here, there = _functions(file, vars(self.module)), _functions(file, broken)
        whole = {name: function.__code__ for name, function in here.items()}
        for name, function in here.items():
            function.__code__ = there[name].__code__
        try:
            yield
        finally:
            for name, function in here.items():
                function.__code__ = whole[name]


def _functions(file: str, module: Mapping[str, Any]) -> dict[str, FunctionType]:
    """Those that are written in the file, also in its classes."""
    classes = {name: vars(each) for name, each in module.items() if isinstance(each, type)}
    return {
        f"{owner}.{name}": each
        for owner, values in {"": module, **classes}.items()
        for name, each in values.items()
        if isinstance(each, FunctionType) and each.__code__.co_filename == file
    }


GUARDS = (
    Guard(
        "a VM snapshot is what it was taken for",
        destruction,
        (("if not snapshot.is_a_snapshot or snapshot.name !=", "if False and snapshot.name !="),),
    ),
    Guard(
        "disks are tagged before their VM snapshot goes",
        destruction,
        (("tag_disks(self._session, snapshot, run, self._repository.repository_id)", "pass"),),
    ),
    Guard(
        "a proof is made again before each try",
        destruction,
        (("fate = self._fate(record, tag)", "fate = self._fate(record, tag) if pause == 0.25 else fate"),),
    ),
    Guard(
        "a disk snapshot carries our tag",
        destruction,
        (('if not record["is_a_snapshot"] or tag_of(', "if False and tag_of("),),
    ),
    Guard(
        "what a run at work made stays",
        destruction,
        (("if tag.run != self._own_run and", "if False and"),),
    ),
    Guard(
        "what somebody's VM has stays",
        destruction,
        (("if (holder := self._holder(record)) is not None:", "if holder := None:"),),
    ),
    Guard(
        "first whether a run is at work, then which point is the newest",
        destruction,
        (
            (
                "self._prove_ours(record, tag)\n        if tag.run",
                "early = self._repository.latest_disk(tag.vm, tag.disk)\n        if tag.run",
            ),
            ("newest = self._repository.latest_disk(tag.vm, tag.disk) if", "newest = early if"),
        ),
    ),
    Guard(
        "the newest restore point's snapshot stays",
        fate,
        (("if snapshot.uuid == newest and not", "if False and not"),),
    ),
)
