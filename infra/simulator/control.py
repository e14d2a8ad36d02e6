"""The control interface: plain HTTP with JSON on 127.0.0.1, for tests in other processes and for curl."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from infra.simulator.faults import NBD_FAULTS, SM_FAULTS
from infra.simulator.guests import Unknown, content
from infra.simulator.http_wire import Refused, RequestReader
from infra.simulator.listener import Connection, Listener, bind
from infra.simulator.pool import SimulatedPool
from infra.simulator.spec import DiskSpec, VmSpec

MAX_BODY = 64 << 20

Json = dict[str, Any]


def serve_control(pool: SimulatedPool, port: int = 0) -> tuple[Listener, int]:
    """Starts it; returns the listener, to be stopped, and its port."""
    sockets, port = bind(["127.0.0.1"], port)
    return Listener.listen(sockets[0], lambda connection: _handle(pool, connection), "control"), port


def _handle(pool: SimulatedPool, connection: Connection) -> None:
    connection.socket.settimeout(30)
    reader = RequestReader(connection, MAX_BODY, MAX_BODY)
    try:
        request = reader.next()
    except Refused as refused:
        connection.socket.sendall(_head(refused.status, 0))
        return
    if request is None:
        return
    where = urlsplit(request.target)
    query = {name: values[0] for name, values in parse_qs(where.query).items()}
    try:
        if request.method == "GET" and where.path == "/content":
            _send_content(pool, connection, query["vdi"])
            return
        action = _ACTIONS[request.method, where.path]
        answer = action(pool, query if request.method == "GET" else json.loads(request.body or b"{}"))
        status = 200
    except (Unknown, ValueError, KeyError, TypeError) as error:
        status = 404 if isinstance(error, Unknown) or error.args == ((request.method, where.path),) else 400
        answer = {"error": f"missing or unknown: {error}" if isinstance(error, KeyError) else str(error)}
    body = (json.dumps(answer) + "\n").encode()
    connection.socket.sendall(_head(status, len(body)) + body)


def _send_content(pool: SimulatedPool, connection: Connection, vdi: str) -> None:
    disk = content(pool.state, vdi)
    connection.socket.sendall(_head(200, disk.size, "application/octet-stream"))
    for piece in disk.pieces():
        connection.socket.sendall(piece)


def _head(status: int, length: int, kind: str = "application/json") -> bytes:
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def _write(pool: SimulatedPool, body: Json) -> Json:
    if "random" in body:
        wanted = dict(body["random"])
        wanted.setdefault("seed", 0)
        return {"blocks": pool.write_random(body["vdi"], **wanted)}
    return {"blocks": pool.write(body["vdi"], int(body["offset"]), bytes.fromhex(body["data_hex"]))}


def _add_vm(pool: SimulatedPool, body: Json) -> Json:
    known = {field.name for field in fields(VmSpec)}
    if unknown := body.keys() - known:
        raise ValueError(f"a VM has no {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    values = dict(body)
    if "disks" in values:
        values["disks"] = tuple(DiskSpec(**disk) for disk in values["disks"])
    uuid = pool.add_vm(VmSpec(**{**values, "tags": tuple(values.get("tags", ()))}))
    return next(vm for vm in pool.vms() if vm["uuid"] == uuid)


def _nothing(action: Callable[[SimulatedPool, Json], None]) -> Callable[[SimulatedPool, Json], Json]:
    def run(pool: SimulatedPool, body: Json) -> Json:
        action(pool, body)
        return {}

    return run


_ACTIONS: dict[tuple[str, str], Callable[[SimulatedPool, Json], Json]] = {
    ("GET", "/"): lambda pool, query: {"actions": sorted(f"{method} {path}" for method, path in _ACTIONS)},
    ("GET", "/pool"): lambda pool, query: pool.describe(),
    ("GET", "/content"): lambda pool, query: {},
    ("GET", "/sha256"): lambda pool, query: {"sha256": pool.sha256(query["vdi"])},
    ("GET", "/log"): lambda pool, query: pool.log(),
    ("GET", "/leftovers"): lambda pool, query: pool.leftovers(),
    ("GET", "/sessions"): lambda pool, query: pool.sessions(),
    ("GET", "/faults"): lambda pool, query: {"nbd": NBD_FAULTS, "sm": SM_FAULTS, "rules": pool.faults()},
    ("POST", "/write"): _write,
    ("POST", "/resize"): _nothing(lambda pool, body: pool.resize(body["vdi"], int(body["size"]))),
    ("POST", "/vms"): _add_vm,
    ("POST", "/log/clear"): _nothing(lambda pool, body: pool.clear_log()),
    ("POST", "/fault"): _nothing(lambda pool, body: pool.add_fault(**body)),
    ("POST", "/fault/clear"): _nothing(lambda pool, body: pool.clear_faults(**body)),
    ("POST", "/host"): _nothing(lambda pool, body: pool.set_host(body["host"], body["state"])),
    ("POST", "/purpose"): _nothing(lambda pool, body: pool.set_purpose(body["purpose"], body.get("network"))),
    ("POST", "/master"): _nothing(lambda pool, body: pool.set_master(body["host"])),
    ("POST", "/end-sessions"): _nothing(lambda pool, body: pool.end_sessions()),
    ("POST", "/disable-cbt"): _nothing(lambda pool, body: pool.disable_cbt(body["vdi"])),
    ("POST", "/rotate-certificate"): _nothing(lambda pool, body: pool.rotate_certificate(body["host"])),
    ("POST", "/restart-nbd"): _nothing(lambda pool, body: pool.restart_nbd(body["host"])),
}
