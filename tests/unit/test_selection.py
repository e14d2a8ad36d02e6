"""Which VMs a run means."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.planning.selection import SelectionError, select_vms
from scheduler.policies.policy import Selector
from scheduler.policies.requests import RunRequest


def record(uuid: str, name: str, tags: tuple[str, ...] = (), **flags: bool) -> dict[str, Any]:
    kind = {"is_a_template": False, "is_a_snapshot": False, "is_control_domain": False, **flags}
    return {"uuid": uuid, "name_label": name, "tags": list(tags), **kind}


def test_a_record_may_lack_what_is_not_so() -> None:
    bare = {"uuid": "u1", "name_label": "db1"}
    request = RunRequest(pool="lab", policy="p", include=Selector(names=("db*",)))
    tagged = RunRequest(pool="lab", policy="p", include=Selector(tags=("backup",)))
    assert [vm.uuid for vm in select_vms(request, {"r1": bare})] == ["u1"]
    assert select_vms(tagged, {"r1": bare}) == []


POOL = {
    "r1": record("u1", "db1", ("backup", "gold")),
    "r2": record("u2", "db2", ("backup",)),
    "r3": record("u3", "web"),
    "r4": record("u4", "web"),
    "r5": record("u5", "Control domain on host", ("backup",), is_control_domain=True),
    "r6": record("u6", "db1", ("backup",), is_a_snapshot=True, is_a_template=True),
    "r7": record("u7", "db-template", ("backup",), is_a_template=True),
    "r8": record("u8", "u1"),
}


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        (Selector(tags=("backup",)), Selector(), ["u1", "u2"]),
        (Selector(tags=("backup",)), Selector(tags=("gold",)), ["u2"]),
        (Selector(names=("db*",)), Selector(names=("*2",)), ["u1"]),
        (Selector(names=("DB*",)), Selector(), []),
        (Selector(names=("web",)), Selector(uuids=("u4",)), ["u3"]),
        (Selector(uuids=("u3", "u9"), tags=("gold",)), Selector(), ["u1", "u3"]),
        (Selector(names=("*",)), Selector(), ["u1", "u2", "u8", "u3", "u4"]),
    ],
)
def test_policies_select_by_tag_name_and_uuid(
    include: Selector, exclude: Selector, chosen: list[str]
) -> None:
    request = RunRequest(pool="lab", policy="p", include=include, exclude=exclude)
    assert [vm.uuid for vm in select_vms(request, POOL)] == chosen


def test_a_uuid_goes_before_a_name_and_twice_named_is_once_chosen() -> None:
    assert [vm.ref for vm in select_vms(RunRequest("lab", ("u1", "db1")), POOL)] == ["r1"]


def test_an_ambiguous_name_says_both_uuids() -> None:
    with pytest.raises(SelectionError, match=r'2 VMs named "web": u3 and u4'):
        select_vms(RunRequest("lab", ("web",)), POOL)


@pytest.mark.parametrize("name", ["nothing", "Control domain on host", "db-template", "u6"])
def test_what_is_no_ordinary_vm_is_not_found(name: str) -> None:
    with pytest.raises(SelectionError, match=f'no VM "{name}"'):
        select_vms(RunRequest("lab", (name,)), POOL)
