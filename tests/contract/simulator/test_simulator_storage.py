"""Disks and snapshots: what each call refuses, does, and leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from infra.simulator import DiskSpec, SimulatedPool, Timing
from infra.simulator.vdi_content import Content

Fails = Callable[..., list[str]]


def test_a_vm_snapshot_holds_its_disks_until_it_is_destroyed(api: Any, pool: SimulatedPool, vm: Any) -> None:
    api.VDI.add_to_other_config(vm.disks[0], "note", "copied")
    held = [pool.content(uuid) for uuid in vm.uuids]
    snapshot = api.VM.snapshot(vm.ref, "now")
    record = api.VM.get_record(snapshot)
    assert record["is_a_snapshot"]
    assert (record["snapshot_of"], record["name_label"]) == (vm.ref, "now")
    assert api.VM.get_snapshots(vm.ref) == [snapshot]
    disks = [api.VBD.get_VDI(vbd) for vbd in record["VBDs"]]
    first = api.VDI.get_record(disks[0])
    assert first["snapshot_of"] == vm.disks[0]
    assert first["other_config"] == {"note": "copied"}
    assert (first["is_a_snapshot"], first["cbt_enabled"], first["read_only"]) == (True, True, False)
    pool.write(vm.uuids[0], 0, b"later")
    for disk, content in zip(disks, held, strict=True):
        assert pool.content(api.VDI.get_uuid(disk)) == content
    api.VM.destroy(snapshot)
    assert api.VDI.get_VBDs(disks[0]) == []
    assert api.VDI.get_type(disks[0]) == "user"


def test_a_failing_disk_takes_the_vm_snapshot_with_it(
    api: Any, pool: SimulatedPool, vm: Any, failure: Fails
) -> None:
    before = set(api.VDI.get_all())
    pool.add_fault(sm="snapshot", vdi=vm.uuids[1])
    assert failure(api.VM.snapshot, vm.ref, "now")[:2] == ["SR_BACKEND_FAILURE_202", ""]
    assert set(api.VDI.get_all()) == before
    ignoring = api.VM.snapshot(vm.ref, "now", [vm.disks[1]])
    assert len(api.VM.get_VBDs(ignoring)) == 1


def test_cd_drives_are_no_disks(api: Any, pool: SimulatedPool, machine: Any) -> None:
    made = machine(pool, api, cd_drive=True)
    kinds = [api.VBD.get_type(vbd) for vbd in api.VM.get_VBDs(api.VM.snapshot(made.ref, "s"))]
    assert sorted(kinds) == ["CD", "Disk", "Disk"]


def test_data_destroy_needs_a_free_snapshot_with_cbt(
    api: Any, pool: SimulatedPool, vm: Any, failure: Fails
) -> None:
    live = vm.disks[0]
    assert failure(api.VDI.data_destroy, live) == ["OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {live}"]
    of_vm = api.VM.snapshot(vm.ref, "s")
    held = next(api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(of_vm))
    started = time.monotonic()
    assert failure(api.VDI.data_destroy, held) == ["VDI_IN_USE", held, "data_destroy"]
    assert time.monotonic() - started >= 0.4
    assert api.VDI.get_type(held) == "user"
    api.VM.destroy(of_vm)
    kept = pool.content(api.VDI.get_uuid(held))
    api.VDI.data_destroy(held)
    api.VDI.data_destroy(held)
    record = api.VDI.get_record(held)
    assert (record["type"], record["cbt_enabled"], record["physical_utilisation"]) == (
        "cbt_metadata",
        True,
        "0",
    )
    assert pool.content(record["uuid"]) == kept
    for operation in (api.VDI.clone, api.VDI.snapshot, api.VDI.get_nbd_info):
        assert failure(operation, held) == ["VDI_INCOMPATIBLE_TYPE", held, "CBT metadata"]
    api.VDI.disable_cbt(live)
    plain = api.VDI.snapshot(live)
    assert failure(api.VDI.data_destroy, plain) == ["VDI_NO_CBT_METADATA", plain]


@pytest.mark.parametrize(("sr_type", "size"), [("nfs", 4096 + 8), ("lvmoiscsi", 0)])
def test_the_size_of_metadata_means_nothing(
    start_pool: Any, login: Any, machine: Any, sr_type: str, size: int
) -> None:
    pool = start_pool(sr_type=sr_type, scan_after_data_destroy=False)
    api = login(pool)
    vdi = api.VDI.snapshot(machine(pool, api).disks[0])
    api.VDI.data_destroy(vdi)
    assert api.VDI.get_virtual_size(vdi) == str(4 << 20)
    api.SR.scan(api.VDI.get_SR(vdi))
    assert api.VDI.get_virtual_size(vdi) == str(size)


def test_destroy(api: Any, pool: SimulatedPool, vm: Any, failure: Fails) -> None:
    assert failure(api.VDI.destroy, vm.disks[0]) == ["VDI_IN_USE", vm.disks[0], "destroy"]
    of_vm = api.VM.snapshot(vm.ref, "s")
    vbds = api.VM.get_VBDs(of_vm)
    held = api.VBD.get_VDI(vbds[0])
    uuid = api.VDI.get_uuid(held)
    api.VDI.destroy(held)
    assert api.VM.get_VBDs(of_vm) == vbds[1:]
    assert failure(api.VDI.get_record, held)[0] == "HANDLE_INVALID"
    assert len(pool.content(uuid)) == 4 << 20


def test_enabling_and_disabling_cbt(api: Any, pool: SimulatedPool, machine: Any, failure: Fails) -> None:
    kinds = (DiskSpec(4 << 20), DiskSpec(4 << 20, raw=True), DiskSpec(4 << 20, type="suspend"))
    plain, raw, suspend = machine(pool, api, kinds).disks
    for _ in range(2):
        api.VDI.enable_cbt(plain)
        assert api.VDI.get_cbt_enabled(plain)
    snapshot = api.VDI.snapshot(plain)
    assert failure(api.VDI.disable_cbt, snapshot) == [
        "OPERATION_NOT_ALLOWED",
        f"VDI is a snapshot: {snapshot}",
    ]
    for _ in range(2):
        api.VDI.disable_cbt(plain)
    assert api.VDI.get_cbt_enabled(snapshot)
    assert failure(api.VDI.enable_cbt, raw)[0] == "SR_BACKEND_FAILURE_66"
    assert failure(api.VDI.enable_cbt, suspend)[0] == "VDI_INCOMPATIBLE_TYPE"
    listed = set(api.VDI.get_allowed_operations(plain))
    assert not listed & {"enable_cbt", "disable_cbt", "data_destroy", "list_changed_blocks"}


def test_disks_that_cannot_be_snapshotted(
    api: Any, pool: SimulatedPool, machine: Any, failure: Fails
) -> None:
    kinds = (
        DiskSpec(4 << 20, sharable=True),
        DiskSpec(4 << 20, on_boot="reset"),
        DiskSpec(4 << 20, managed=False),
    )
    shared, reset, unmanaged = machine(pool, api, kinds, running=False).disks
    assert failure(api.VDI.snapshot, shared) == ["VDI_IS_SHARABLE", shared]
    assert failure(api.VDI.snapshot, reset) == ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]
    assert failure(api.VDI.snapshot, unmanaged) == ["VDI_NOT_MANAGED", unmanaged]


def test_a_licence_an_upgrade_and_a_feature_are_needed(
    start_pool: Any, login: Any, machine: Any, failure: Fails
) -> None:
    pool = start_pool(licensed_for_cbt=False)
    api = login(pool)
    on, off = machine(pool, api, (DiskSpec(4 << 20, cbt=True), DiskSpec(4 << 20))).disks
    for vdi in (on, off):
        assert failure(api.VDI.enable_cbt, vdi) == ["LICENCE_RESTRICTION", "CBT"]
    api.VDI.disable_cbt(on)
    assert api.pool.get_restrictions(api.pool.get_all()[0])["restrict_cbt"] == "true"
    pool.state.rolling_upgrade = True
    assert failure(api.VDI.disable_cbt, on) == ["NOT_SUPPORTED_DURING_UPGRADE"]
    assert api.VDI.snapshot(on)

    pool = start_pool(sr_has_cbt=False)
    api = login(pool)
    vdi = machine(pool, api, (DiskSpec(4 << 20),)).disks[0]
    sr = api.VDI.get_SR(vdi)
    assert failure(api.VDI.enable_cbt, vdi) == ["SR_OPERATION_NOT_SUPPORTED", sr]


def test_an_operation_waits_for_the_one_before_it(start_pool: Any, login: Any, machine: Any) -> None:
    pool = start_pool(timing=Timing(operation_delay=0.2))
    api, other = login(pool), login(pool)
    one, two = machine(pool, api).disks
    started = time.monotonic()
    thread = threading.Thread(target=other.VDI.snapshot, args=(two,))
    thread.start()
    api.VDI.snapshot(one)
    thread.join()
    assert time.monotonic() - started >= 0.4


def test_waiting_ends_with_the_operation_that_is_in_the_way(
    start_pool: Any, login: Any, machine: Any, failure: Fails
) -> None:
    pool = start_pool(timing=Timing(in_progress_retry=0.1))
    api = login(pool)
    vdi = machine(pool, api).disks[0]
    sr, state = api.VDI.get_SR(vdi), pool.state
    with state.lock:
        state.database.update("SR", sr, current_operations={"OpaqueRef:t": "scan"})
    assert failure(api.VDI.snapshot, vdi) == ["OTHER_OPERATION_IN_PROGRESS", "SR", sr, "scan", "OpaqueRef:t"]
    state.waiting = 100
    assert failure(api.VDI.snapshot, vdi) == ["TOO_MANY_PENDING_TASKS"]


def test_an_sr_without_a_plug_on_the_master(
    start_pool: Any, login: Any, machine: Any, failure: Fails
) -> None:
    pool = start_pool()
    api = login(pool)
    vdi = machine(pool, api).disks[0]
    sr = api.VDI.get_SR(vdi)
    api.PBD.unplug(api.SR.get_PBDs(sr)[0])
    assert failure(api.VDI.snapshot, vdi) == ["SR_NO_PBDS", sr]
    assert failure(api.VDI.set_name_label, vdi, "x") == ["SR_NO_PBDS", sr]
    api.VDI.add_to_other_config(vdi, "still", "works")


def test_create_rounds_up_and_wants_its_fields(api: Any, vm: Any, failure: Fails) -> None:
    record = {"SR": api.VDI.get_SR(vm.disks[0]), "virtual_size": str((4 << 20) + 1), "type": "user",
              "sharable": False, "read_only": False, "other_config": {}}  # fmt: skip
    assert api.VDI.get_virtual_size(api.VDI.create(record)) == str(6 << 20)
    for field in record:
        lacking = {name: value for name, value in record.items() if name != field}
        assert failure(api.VDI.create, lacking)[0] == "INTERNAL_ERROR"
    assert failure(api.VDI.create, {**record, "sharable": "false"})[0] == "INTERNAL_ERROR"


def test_a_chain_is_thirty_long_at_most(api: Any, vm: Any, failure: Fails) -> None:
    snapshots = [api.VDI.snapshot(vm.disks[0]) for _ in range(30)]
    assert failure(api.VDI.snapshot, vm.disks[0])[0] == "SR_BACKEND_FAILURE_109"
    api.VDI.data_destroy(snapshots[0])
    assert api.VDI.snapshot(vm.disks[0])


def test_revert_and_migration_end_the_chain(api: Any, pool: SimulatedPool, vm: Any, failure: Fails) -> None:
    snapshot = api.VM.snapshot(vm.ref, "s")
    held = [api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(snapshot)]
    api.VM.revert(snapshot)
    new = [api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(vm.ref)]
    assert not set(new) & set(vm.disks)
    assert [api.VDI.get_snapshot_of(vdi) for vdi in held] == new
    assert not api.VDI.get_cbt_enabled(new[0])
    api.VDI.enable_cbt(new[0])
    sr = api.VDI.get_SR(new[0])
    assert failure(api.VDI.pool_migrate, new[0], sr, {}) == ["VDI_CBT_ENABLED", new[0]]


def test_purposes_of_networks(start_pool: Any, login: Any, failure: Fails) -> None:
    pool = start_pool()
    api = login(pool)
    one, two = api.network.get_all()
    api.network.add_purpose(one, "nbd")
    assert api.network.get_purpose(one) == ["nbd"]
    assert failure(api.network.add_purpose, two, "insecure_nbd") == [
        "NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd",
    ]  # fmt: skip
    for network in (one, two):
        api.network.remove_purpose(network, "nbd")
    api.network.add_purpose(two, "insecure_nbd")
    assert [api.network.get_purpose(network) for network in (one, two)] == [[], ["insecure_nbd"]]


def test_contents_follow_from_the_seed_and_cost_what_is_written() -> None:
    disk = Content.new(100 << 20, "mixed", seed=5)
    zeros = sum(disk.block(number) is None for number in range(disk.blocks)) / disk.blocks
    assert 0.35 < zeros < 0.45
    assert disk.sha256() == Content.new(100 << 20, "mixed", seed=5).sha256()
    assert disk.sha256() != Content.new(100 << 20, "mixed", seed=6).sha256()
    odd = Content.new(65536 + 512, "text", seed=1)
    before = odd.read(0, odd.size)
    odd.grow(4 << 20)
    assert odd.read(0, odd.size) == before + bytes((4 << 20) - len(before))
    copy = odd.copy()
    assert odd.write(65530, b"0123456789") == [0, 1]
    assert copy.read(65530, 6) == before[65530:65536]
    with pytest.raises(ValueError, match="of a disk of"):
        odd.write(odd.size - 1, b"xy")
    huge = Content.new(2 << 40, "mixed", seed=1)
    huge.write((2 << 40) - 512, b"end")
    assert huge.copy().read((2 << 40) - 512, 3) == b"end"
    different = {bytes(disk.block(number) or b"") for number in range(disk.blocks)}
    assert len(different) == 1 + sum(disk.block(number) is not None for number in range(disk.blocks))
