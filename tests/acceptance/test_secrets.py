"""No export name, session reference, password or key is anywhere that a curious person could look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import redis

from tests.acceptance.conftest import PASSPHRASE, Fleet, FleetMaker


def redis_values(client: redis.Redis) -> Iterator[bytes]:
    """Every key and value that is in Redis, as it would appear in a dump."""
    for key in client.scan_iter(count=1000):
        yield key
        kind = client.type(key)
        if kind == b"string":
            yield client.get(key)
        elif kind == b"hash":
            for name, value in client.hgetall(key).items():
                yield name + b" " + value
        elif kind == b"list":
            yield from client.lrange(key, 0, -1)
        elif kind == b"set":
            yield from client.smembers(key)
        elif kind == b"zset":
            yield from (member for member, _ in client.zrange(key, 0, -1, withscores=True))
        else:
            raise AssertionError(f"a key of an unexpected kind: {kind!r}")


def secrets_of(fleet: Fleet) -> dict[str, bytes]:
    found = {
        "the pool's password": Path(fleet.simulator.facts["password_file"]).read_bytes().strip(),
        "the passphrase": PASSPHRASE.encode(),
        "an export name or a session": b"session_id",
        "a reference": b"OpaqueRef:",
    }
    for name in ("public", "metadata", "private"):
        for number, line in enumerate((fleet.folder / "keys" / f"{name}.key").read_bytes().split()):
            if len(line) >= 40:
                found[f"word {number} of the {name} key file"] = line.strip(b'",')
    return found


def test_nothing_secret_is_said_or_kept(make_fleet: FleetMaker, redis_client: redis.Redis) -> None:
    fleet = make_fleet("s3")
    fleet.start_all()
    said = [fleet.command("backup", "--policy", "nightly", "--wait", "--json")]
    assert said[0].returncode == 0, said[0].stderr + fleet.report()

    # provoke error paths too: a disk that stalls, a host that refuses, a login that fails
    vdi = fleet.simulator.disks[0]
    fleet.simulator.write(vdi, 1, 50)
    fleet.simulator.post("/fault", {"nbd": "eof_at_export", "count": 2})
    said.append(fleet.command("backup", "--policy", "nightly", "--wait", "--json"))
    fleet.simulator.post(
        "/fault", {"xapi": "VM.snapshot", "failure": ["INTERNAL_ERROR", "broken"], "count": 99}
    )
    said.append(fleet.command("backup", "--policy", "nightly", "--wait"))
    assert said[-1].returncode == 1
    for arguments in (["status"], ["runs"], ["points"], ["doctor"]):
        said.append(fleet.command(*arguments))

    kept = list(redis_values(redis_client))
    assert len(kept) > 10
    fleet.stop_all()
    logs = [path.read_bytes() for path in fleet.folder.glob("*.log")]
    assert sum(map(len, logs)) > 500
    texts = [(done.stdout + done.stderr).encode() for done in said]
    for what, secret in secrets_of(fleet).items():
        for text in (*texts, *logs, *kept):
            assert secret not in text, f"{what} in {text[:2000]!r}"
