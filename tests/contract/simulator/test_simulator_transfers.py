"""Disks over HTTP: who may, where, and what a 200 is worth."""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.simulator import DiskSpec, SimulatedPool, UserSpec


@contextmanager
def ask(
    pool: SimulatedPool, method: str, path: str, body: bytes | None = None, host: int = 0, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    at = pool.hosts[host]
    context = ssl.create_default_context(cafile=str(pool.ca_file))
    connection = http.client.HTTPSConnection(at.address, at.port, context=context)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    try:
        yield answer
    finally:
        answer.close()
        connection.close()


def test_an_export_is_the_disk_and_the_task_says_so(pool: SimulatedPool, api: Any, vm: Any) -> None:
    vdi = api.VDI.snapshot(vm.disks[0])
    task = api.task.create("export", "")
    path = f"/export_raw_vdi?vdi={vdi}&format=raw&task_id={task}&session_id={api.ref}"
    with ask(pool, "GET", path) as answer:
        assert answer.status == 200
        assert answer.getheader("Content-Length") is None
        assert answer.read() == pool.content(api.VDI.get_uuid(vdi))
    assert api.task.get_status(task) == "success"
    assert pool.leftovers()["plugged_vbds"] == []


def test_who_may(start_pool: Any, login: Any, machine: Any) -> None:
    pool = start_pool(users=(UserSpec("viewer", "pw", "read-only"),))
    api, viewer = login(pool), login(pool, "viewer", "pw")
    uuid = api.VDI.get_uuid(api.VDI.snapshot(machine(pool, api).disks[0]))
    path = f"/export_raw_vdi?vdi={uuid}&format=raw"
    root = base64.b64encode(f"root:{pool.state.spec.password}".encode()).decode()
    for status, headers in (
        (401, {}),
        (401, {"Cookie": "session_id=OpaqueRef:none"}),
        (401, {"Authorization": "Basic cm9vdDp4"}),
        (403, {"Cookie": f"session_id={viewer.ref}"}),
        (200, {"Cookie": f"session_id={api.ref}"}),
        (200, {"Authorization": f"Basic {root}"}),
    ):
        with ask(pool, "GET", path, **headers) as answer:
            assert answer.status == status
            assert len(answer.read()) == (4 << 20 if status == 200 else 0)


def test_an_import_writes_and_is_tracked(pool: SimulatedPool, api: Any, machine: Any) -> None:
    made = machine(pool, api, (DiskSpec(4 << 20, cbt=True),), running=False)
    first = api.VDI.snapshot(made.disks[0])
    path = f"/import_raw_vdi?vdi={made.uuids[0]}&format=raw&session_id={api.ref}"
    data = bytes(range(256)) * 1024
    with ask(pool, "PUT", path, data) as answer:
        assert answer.status == 200
        answer.read()
    assert pool.content(made.uuids[0])[: len(data)] == data
    assert base64.b64decode(api.VDI.list_changed_blocks(first, made.disks[0]))[0] == 0xF0


def test_a_200_proves_nothing(pool: SimulatedPool, api: Any, vm: Any) -> None:
    task = api.task.create("import", "")
    path = f"/import_raw_vdi?vdi={vm.uuids[0]}&format=raw&task_id={task}&session_id={api.ref}"
    with ask(pool, "PUT", path, b"x" * 512) as answer:
        assert answer.status == 200
        answer.read()
    assert api.task.get_status(task) == "failure"
    assert api.task.get_error_info(task)[0] == "VDI_IN_USE"


def test_a_new_disk_from_a_body(pool: SimulatedPool, api: Any, vm: Any) -> None:
    before = set(api.VDI.get_all())
    path = f"/import_raw_vdi?sr_uuid={api.SR.get_uuid(api.VDI.get_SR(vm.disks[0]))}&session_id={api.ref}"
    with ask(pool, "PUT", path, b"new!") as answer:
        answer.read()
    (new,) = set(api.VDI.get_all()) - before
    assert api.VDI.get_virtual_size(new) == str(2 << 20)
    assert pool.content(api.VDI.get_uuid(new)) == b"new!".ljust(2 << 20, b"\0")


def test_a_host_without_the_sr_sends_you_on(start_pool: Any, login: Any, machine: Any) -> None:
    pool = start_pool(hosts=2, local_srs=True)
    api = login(pool)
    vdi = api.VDI.snapshot(machine(pool, api, (DiskSpec(4 << 20, sr="local"),), host=1).disks[0])
    path = f"/export_raw_vdi?vdi={vdi}&format=raw&session_id={api.ref}"
    with ask(pool, "GET", path) as answer:
        assert answer.status == 302
        assert answer.getheader("Location") == f"https://127.0.1.2:{pool.hosts[1].port}{path}"
    with ask(pool, "GET", path, host=1) as answer:
        assert len(answer.read()) == 4 << 20


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("PUT", "/import_raw_vdi?vdi=none", {"Transfer_Encoding": "chunked"}, 404),
        ("GET", "/export_raw_vdi?vdi=none", {}, 404),
        ("GET", "/export_raw_vdi?vdi=none&format=vhd", {}, 501),
    ],
)
def test_refusals(
    pool: SimulatedPool, api: Any, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    with ask(pool, method, path, Cookie=f"session_id={api.ref}", **headers) as answer:
        assert answer.status == status
