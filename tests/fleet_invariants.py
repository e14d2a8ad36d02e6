"""What must hold in the ledger after every step, read from the raw keys."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable

import redis

from workers.fleet import DiskProgress, Limits, RunProgress

Slots = list[tuple[str, int, dict[str, object]]]  # host, number, record
STREAM_STATES = {"GRANTED", "OPENING", "HELD"}


def read_slots(client: redis.Redis, hosts: Iterable[str]) -> Slots:
    return [
        (host, int(name), json.loads(record))
        for host in hosts
        for name, record in client.hgetall(f"cbtfleet:host:lab/{host}").items()
        if name.isdigit()
    ]


def check_books_on_slots(client: redis.Redis, run: RunProgress, slots: Slots) -> None:
    states: dict[str, set[bytes]] = defaultdict(set)
    used: Counter[str] = Counter()
    connected: Counter[str] = Counter()
    streams: Counter[object] = Counter()
    opening: Counter[object] = Counter()
    opens: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    for host, number, slot in slots:
        state = str(slot["state"])
        states[state].add(f"lab/{host}/{number}".encode())
        if state in STREAM_STATES and slot["counted"]:
            streams[slot["disk"]] += 1
            opening[slot["disk"]] += state != "HELD"
        used[host] += state != "FREE"
        if state in ("OPENING", "HELD"):
            connected[host] += 1
            busy[str(slot["owner"]).partition("/")[0]] += 1
        opens[host] += state in ("GRANTED", "OPENING")
    for state in (*STREAM_STATES, "QUARANTINE"):
        assert set(client.zrange(f"cbtfleet:slots:{state}", 0, -1)) == states[state]
    assert {node.decode(): int(n) for node, n in client.hgetall("cbtfleet:busy").items()} == busy
    assert all(count <= 2 for count in opens.values())
    assert set(client.zrange("cbtfleet:openings", 0, -1)) == states["OPENING"]
    for host in opens:
        fields = client.hmget(f"cbtfleet:host:lab/{host}", "used", "opens", "connected")
        assert [int(field or 0) for field in fields] == [used[host], opens[host], connected[host]]
    for disk in run.disks:
        assert disk.streams == streams[disk.disk]
        assert opening[disk.disk] <= 1


def check_batches(
    client: redis.Redis, run: RunProgress, slots: Slots, committed: dict[str, set[int]] | None
) -> None:
    lines = disks_in_line(client)
    reserved: dict[object, list[int]] = defaultdict(list)
    for _, _, slot in slots:
        if slot["state"] in ("OPENING", "HELD"):
            reserved[slot["disk"]] += slot["batches"]  # type: ignore[operator]
    for disk in run.disks:
        assert disk.read_bytes == disk.done
        assert disk.stored_bytes == 2 * disk.done
        if committed is not None:
            assert disk.done == len(committed.get(disk.disk, ()))
        if disk.state != "streaming":
            assert disk.state != "complete" or disk.done == disk.batches
            assert disk.disk not in lines
            continue
        bits = client.get(f"cbtfleet:done:run/{disk.disk}") or b""
        done = {i for i in range(8 * len(bits)) if bits[i // 8] & 0x80 >> i % 8}
        assert len(done) == disk.done < disk.batches
        first = int(client.hget(f"cbtfleet:disk:run/{disk.disk}", "next") or 0)
        returned = [int(batch) for batch in client.lrange(f"cbtfleet:returned:run/{disk.disk}", 0, -1)]
        open_batches = [*reserved[disk.disk], *returned, *range(first, disk.batches)]
        counts = Counter(batch for batch in open_batches if batch not in done)
        assert set(counts) == set(range(disk.batches)) - done
        assert set(counts.values()) == {1}
        check_line(client, disk, lines.get(disk.disk), len(set(counts) - set(reserved[disk.disk])))


def disks_in_line(client: redis.Redis) -> dict[str, str]:
    """Disk -> the line it stands in; nobody stands in two."""
    found = [
        (disk.decode().rpartition("/")[2], "delayed") for disk in client.zrange("cbtfleet:delayed", 0, -1)
    ]
    for key in client.keys("cbtfleet:line:*"):
        kind = key.decode().split(":")[2].partition("/")[0]
        assert key.decode().partition(f"{kind}/")[2].encode() in client.smembers(f"cbtfleet:lines:{kind}")
        found += [(disk.decode(), kind) for disk in client.zrange(key, 0, -1)]
    assert len(dict(found)) == len(found)
    return dict(found)


def check_line(client: redis.Redis, disk: DiskProgress, line: str | None, left: int) -> None:
    fields = client.hgetall(f"cbtfleet:disk:run/{disk.disk}")
    assert int(fields[b"left"]) == left
    assert fields.get(b"line", b"").decode() == (line or "")
    opening, not_before = (int(fields.get(name, 0)) for name in (b"opening", b"not_before"))
    if not left or opening:
        assert line is None
    elif line is None:
        assert disk.streams
        assert left < Limits().batches_per_extra_stream * (disk.streams + 1)
    elif line != "delayed":
        assert line == ("further" if disk.streams else "first")
    else:
        assert not_before


def check_vms(client: redis.Redis, run: RunProgress, finished: Counter[str] | None) -> None:
    streaming = {disk.vm for disk in run.disks if disk.state == "streaming"}
    for vm in run.vms:
        assert (vm.state == "streaming") == (vm.vm in streaming)
        due = client.zscore("cbtfleet:steps", f"run/finish-vm/{vm.vm}") is not None
        assert due == (vm.state == "finishing")
        if finished is not None:
            assert finished[vm.vm] == (vm.state == "finished")
