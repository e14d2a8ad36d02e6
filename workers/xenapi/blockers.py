"""What holds the objects of a call that does not end: XAPI queues it for hours, and does not say why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from workers.xenapi.meanings import redact
from workers.xenapi.records import NULL_REF

Ask = Callable[..., Any]
"""A call that may be refused or not be answered: then None."""

_LONGEST = 10.0  # seconds for all the questions: they come on top of a deadline that has passed


def what_blocks(ask: Ask, method: str, args: tuple[Any, ...], own_task: str = "") -> str:
    """`SR "NFS 1" is held by scan (SR.scan, since 20260101T12:00:00Z)`, or "" when nothing is known to.

    `own_task` is the call's own task: what it holds, it does not wait for.
    """
    until = time.monotonic() + _LONGEST
    kind = method.removeprefix("Async.").partition(".")[0]
    refs = [arg for arg in args if isinstance(arg, str) and arg.startswith("OpaqueRef:") and arg != NULL_REF]
    seen: set[str] = set()
    for kind_, ref in _chain(ask, kind, refs, seen):
        if time.monotonic() > until:
            return ""
        record = ask(f"{kind_}.get_record", ref)
        operations = record.get("current_operations") if isinstance(record, Mapping) else None
        if not isinstance(operations, Mapping):
            continue
        for task, operation in operations.items():
            if task != own_task:
                name = redact(str(record.get("name_label") or record.get("uuid", "")))
                return f'{kind_} "{name}" is held by {redact(str(operation))}{_task(ask, task)}'
    return ""


def _chain(ask: Ask, kind: str, refs: list[str], seen: set[str]) -> Iterator[tuple[str, str]]:
    """The call's objects and, behind them, the storage that they are on."""
    for ref in refs:
        if ref in seen:
            continue
        seen.add(ref)
        yield kind, ref
        if kind == "VM":
            disks = [ask("VBD.get_VDI", vbd) for vbd in ask("VM.get_VBDs", ref) or []]
            yield from _chain(ask, "VDI", [disk for disk in disks if disk and disk != NULL_REF], seen)
        elif kind == "VBD":
            disk = ask("VBD.get_VDI", ref)
            yield from _chain(ask, "VDI", [disk] if disk and disk != NULL_REF else [], seen)
        elif kind == "VDI":
            storage = ask("VDI.get_SR", ref)
            yield from _chain(ask, "SR", [storage] if storage else [], seen)


def _task(ask: Ask, task: str) -> str:
    record = ask("task.get_record", task)
    if not isinstance(record, Mapping) or not record.get("name_label"):
        return ""
    created = record.get("created")
    since = f", since {created}" if created else ""
    return f" ({redact(str(record['name_label']))}{since})"
