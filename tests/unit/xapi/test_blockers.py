"""What is said to hold the objects of a call that does not end."""

from __future__ import annotations

from typing import Any

import pytest

from workers.xenapi.blockers import what_blocks

VM, VDI, SR, TASK = "OpaqueRef:vm", "OpaqueRef:vdi", "OpaqueRef:sr", "OpaqueRef:task"


def _asking(operations: dict[str, dict[str, str]], **more: Any) -> Any:
    """A pool of one VM with one disk; `operations` by class."""
    answers: dict[tuple[str, str], Any] = {
        ("VM.get_record", VM): {"name_label": "web", "current_operations": operations.get("VM", {})},
        ("VM.get_VBDs", VM): ["OpaqueRef:cd", "OpaqueRef:vbd"],
        ("VBD.get_VDI", "OpaqueRef:cd"): "OpaqueRef:NULL",
        ("VBD.get_VDI", "OpaqueRef:vbd"): VDI,
        ("VBD.get_record", "OpaqueRef:vbd"): {"uuid": "u", "current_operations": {}},
        ("VDI.get_record", VDI): {
            "name_label": "",
            "uuid": "1-2",
            "current_operations": operations.get("VDI", {}),
        },
        ("VDI.get_SR", VDI): SR,
        ("SR.get_record", SR): {"name_label": "NFS 1", "current_operations": operations.get("SR", {})},
        ("task.get_record", TASK): {"name_label": "SR.scan", "created": "20260101T01:02:03Z"},
        **{tuple(key.split("/")): value for key, value in more.items()},
    }
    return lambda method, ref: answers.get((method, ref))


@pytest.mark.parametrize(
    ("method", "args", "operations", "said"),
    [
        (
            "VM.snapshot",
            (VM, "new", []),
            {"SR": {TASK: "scan"}},
            'SR "NFS 1" is held by scan (SR.scan, since ',
        ),
        ("Async.VM.snapshot", (VM, "new"), {"VM": {TASK: "pause"}}, 'VM "web" is held by pause ('),
        ("VDI.data_destroy", (VDI,), {"VDI": {"OpaqueRef:x": "copy"}}, 'VDI "1-2" is held by copy'),
        ("VDI.list_changed_blocks", ("OpaqueRef:gone", VDI), {"SR": {TASK: "scan"}}, 'SR "NFS 1" is held'),
        ("VBD.unplug", ("OpaqueRef:vbd",), {"SR": {TASK: "scan"}}, 'SR "NFS 1" is held by scan'),
        ("SR.scan", (SR,), {"SR": {TASK: "vdi_create"}}, 'SR "NFS 1" is held by vdi_create'),
        ("VM.snapshot", (VM,), {}, ""),
        ("VM.snapshot", (7, "OpaqueRef:NULL"), {"SR": {TASK: "scan"}}, ""),
        ("pool.sync", (), {"SR": {TASK: "scan"}}, ""),
    ],
)
def test_the_operation_and_what_it_holds_are_named(
    method: str, args: tuple[Any, ...], operations: dict[str, dict[str, str]], said: str
) -> None:
    found = what_blocks(_asking(operations), method, args)
    assert found.startswith(said)
    assert bool(found) is bool(said)
    assert "OpaqueRef" not in found


def test_what_the_call_itself_holds_is_nothing_that_it_waits_for() -> None:
    ask = _asking(
        {"VM": {"OpaqueRef:own": "snapshot"}, "SR": {"OpaqueRef:own": "vdi_snapshot", TASK: "scan"}}
    )
    assert "scan" in what_blocks(ask, "VM.snapshot", (VM,), "OpaqueRef:own")


def test_a_pool_that_answers_nothing_is_no_blocker() -> None:
    assert what_blocks(lambda *_: None, "VM.snapshot", (VM,)) == ""
    assert what_blocks(lambda *_: "odd", "VDI.destroy", (VDI,)) == ""


def test_questions_are_not_asked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked: list[str] = []
    monkeypatch.setattr("workers.xenapi.blockers.time.monotonic", lambda: now[0])

    def ask(method: str, ref: str) -> Any:
        asked.append(method)
        now[0] += 6
        return [] if method == "VM.get_VBDs" else None

    assert what_blocks(ask, "VDI.list_changed_blocks", (VDI, "OpaqueRef:other")) == ""
    assert len(asked) <= 3
