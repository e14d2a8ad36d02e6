"""What came out, judged by the hosts' own log and by the bytes that come back.

What the fleet says of itself is only compared with that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.course import Evidence, Ran
from tests.faults.opens import blocks_read, most_opens, opened
from tests.faults.plan import BARRIERS
from tests.faults.servers import Pool
from workers.errors import CbtfleetError
from workers.extents import block_count, block_length
from workers.fleet import Timing
from workers.repository import (
    DiskPoint,
    MetadataKeys,
    Point,
    PrivateKeys,
    Repository,
    Store,
    read_segment,
    restore_disk,
    verify_points,
)

CHUNK = 4 << 20
LATE = 6.0
"""Seconds by which the end of a slot's rest may be late: a paused Redis, and a count, take their time."""


@dataclass
class Verdict:
    violations: list[str] = field(default_factory=list)
    compared: int = 0
    compared_bytes: int = 0
    measured: dict[str, Any] = field(default_factory=dict)


def compare_points(
    verdict: Verdict, store: Store, keys: PrivateKeys, repository: Repository, pool: Pool, target: Path
) -> list[Point]:
    """Restores every disk of every point and compares it with what the pool's snapshot held."""
    points = list(repository.points())
    for point in points:
        for disk in point.disks:
            verdict.compared += 1
            verdict.compared_bytes += disk.virtual_size
            where = f"disk {disk.vdi} of point {point.id}"
            try:
                restore_disk(store, keys, disk, target, force=True, threads=2)
                at = _first_difference(pool, disk.snapshot, target)
            except CbtfleetError as error:
                verdict.violations.append(f"{where} cannot be restored: {error}")
                continue
            if at is not None:
                verdict.violations.append(f"{where} differs from its snapshot from byte {at} on")
    target.unlink(missing_ok=True)
    for damage in verify_points(store, keys, points, threads=2).damaged:
        verdict.violations.append(f"verify: {damage.object} block {damage.block}: {damage.why}")
    return points


def _first_difference(pool: Pool, snapshot: str, file: Path) -> int | None:
    position = 0
    with pool.content(snapshot) as held, file.open("rb") as restored:
        while True:
            one, other = held.read(CHUNK), restored.read(CHUNK)
            if one != other:
                same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
                return position + (min(len(one), len(other)) if same is None else same)
            if not one:
                return None
            position += len(one)


def judge(
    verdict: Verdict, evidence: Evidence, points: list[Point], store: Store, keys: MetadataKeys
) -> None:
    say = verdict.violations.append
    schedule, log = evidence.schedule, evidence.log
    for line in evidence.stuck:
        say(f"stuck: {line}")
    for line in sorted(evidence.spilt):
        say(f"secret: {line}")
    for host, peak in log["peak"].items():
        if peak > schedule.cap:
            say(f"cap: host {host} counted {peak} connections, {schedule.cap} are allowed")
    rejects = sum(log["rejects"].values())
    if rejects and not schedule.may_be_rejected:
        say(f"reject: {rejects} of our own connects were turned away")
    by_place = {(point.run, point.vm_uuid, disk.vdi): disk for point in points for disk in point.disks}
    reads = blocks_read(log["reads"])
    for ran in evidence.runs:
        _judge_run(say, evidence, ran, by_place, reads, store, keys)
    if not evidence.stuck:
        _judge_leftovers(say, evidence, points)
    connections = log["connections"]
    if "a stranger takes a host's connections" in schedule.kinds:
        # It never asks for a disk, so its connections look like opens that go on.
        connections = [entry for entry in connections if entry["asked"] is not None]
    opens = most_opens(connections, "host"), most_opens(connections, "vdi")
    batches = sum(-(-len(blocks) // 512) for blocks in reads.values())
    verdict.measured = {
        "peak": max(log["peak"].values(), default=0),
        "rejects": rejects,
        "opens": opened(log["connections"]),
        "batches_per_open": round(batches / max(1, opened(log["connections"])), 2),
        "opens_at_once_host": opens[0],
        "opens_at_once_disk": opens[1],
        "longest_rest": evidence.longest_rest,
    }
    timing = Timing().scaled(schedule.time_scale)
    if evidence.longest_rest > timing.lease + timing.quarantine + LATE and not BARRIERS & set(schedule.kinds):
        say(f"slots: one rested for {evidence.longest_rest} s although its host had let go of the connection")
    if not schedule.pauses and not schedule.flushes:
        if opens[0] > 2:
            say(f"opens: {opens[0]} opens in progress on one host")
        if opens[1] > 1:
            say(f"opens: {opens[1]} opens in progress of one disk")


def _judge_run(
    say: Any,
    evidence: Evidence,
    ran: Ran,
    by_place: dict[tuple[str, str, str], DiskPoint],
    reads: dict[str, set[int]],
    store: Store,
    keys: MetadataKeys,
) -> None:
    rows = {row.vdi: row for row in ran.result.disks if row.vdi}
    sizes = {disk["vdi"]: disk["size"] for vm in evidence.pool_facts["vms"] for disk in vm["disks"]}
    vm_of = {disk["vdi"]: vm["uuid"] for vm in evidence.pool_facts["vms"] for disk in vm["disks"]}
    failed_vms = {row.vm_uuid for row in ran.result.disks if not row.vdi and row.error}
    doubled = [
        vdi for vdi, count in Counter(row.vdi for row in ran.result.disks).items() if vdi and count > 1
    ]
    if doubled:
        say(f"result of {ran.run}: {len(doubled)} disks are named twice")
    excused = ran.result.status == "cancelled" or ran.result.error
    for vdi, size in sizes.items():
        where = f"run {ran.run}, disk {vdi}"
        row, point = rows.get(vdi), by_place.get((ran.run, vm_of[vdi], vdi))
        if row is None:
            if not excused and vm_of[vdi] not in failed_vms:
                say(f"{where}: not in the result, and no reason why")
            continue
        if (row.point is None) != (point is None):
            say(f"{where}: point {row.point} in the result, {'none' if point is None else 'one'} stored")
        if row.point is None and not row.error:
            say(f"{where}: neither a point nor a reason")
        if point is None:
            continue
        if row.read_bytes != row.changed_bytes:
            say(f"{where}: {row.read_bytes} bytes counted, {row.changed_bytes} planned")
        wanted = set(range(block_count(size))) if row.mode == "full" else ran.written[vdi]
        planned = sum(block_length(block, size) for block in wanted)
        if row.changed_bytes != planned:
            say(f"{where}: {row.changed_bytes} bytes planned, guests changed {planned} ({row.mode})")
        missing = wanted - reads.get(point.snapshot, set())
        if missing:
            say(f"{where}: {len(missing)} blocks were never read whole from a host")
        stored: Counter[int] = Counter()
        for segment in (one for one in point.segments if one.run == ran.run):
            stored.update(int(block) for block in read_segment(store, keys, segment, size).entries["block"])
        # zeros over zeros are left out, which the comparison of the bytes has looked at
        if not stored.keys() <= wanted or any(count > 1 for count in stored.values()):
            say(f"{where}: the segments hold {sum(stored.values())} blocks, {len(wanted)} changed")
    if ran.result.status == "succeeded" and any(row.error for row in ran.result.disks):
        say(f"run {ran.run} calls itself succeeded with errors in it")


def _judge_leftovers(say: Any, evidence: Evidence, points: list[Point]) -> None:
    left = evidence.leftovers
    if left["vm_snapshots"]:
        say(f"left on the pool: {len(left['vm_snapshots'])} VM snapshots")
    if left["plugged_vbds"]:
        say(f"left on the pool: {len(left['plugged_vbds'])} plugged disks")
    bases = {disk.snapshot for point in points for disk in point.disks}
    for snapshot in left["vdi_snapshots"]:
        if snapshot["type"] != "cbt_metadata":
            say(f"left on the pool: VDI snapshot {snapshot['uuid']} with its data")
        elif snapshot["uuid"] not in bases:
            say(f"left on the pool: VDI snapshot {snapshot['uuid']} that no point was made from")
    for vdi, count in Counter(snapshot["snapshot_of"] for snapshot in left["vdi_snapshots"]).items():
        if count > 1:
            say(f"left on the pool: {count} metadata snapshots of disk {vdi}")
