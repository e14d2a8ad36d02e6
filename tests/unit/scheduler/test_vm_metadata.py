"""What a VM is besides its disks is kept with its restore points; nothing fails without it."""

from __future__ import annotations

import io
import logging
import socket
import tarfile
import threading
from collections.abc import Callable
from typing import Any

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.planning import vm_metadata
from tests.unit.scheduler.conftest import Site
from workers.repository import MAX_VM_METADATA, RepositoryError
from workers.settings import PoolSettings
from workers.xenapi import BadAnswer, Session
from workers.xenapi.connection import Server
from workers.xenapi.download import download

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(1 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)
MakeSite = Callable[[PoolSpec], Site]


def ova(data: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("ova.xml")
        assert member is not None
        return member.read().decode()


def test_each_restore_point_has_the_metadata_of_its_time(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site = make_site(SPEC)
    assert site.night().warnings == ()
    with Session.login("lab", site.settings.pool("lab")) as session:
        ref = session.call("VM.get_by_uuid", site.pool.vms()[0]["uuid"])
        session.call("VM.set_name_description", ref, "now with a note")
    assert site.night().status == "succeeded"
    first, second = site.repository.points()
    assert "<name>name_label</name><value>web</value>" in ova(site.repository.vm_metadata(first))
    assert site.disks[0] in ova(site.repository.vm_metadata(first)), "the disk as the point names it"
    assert "now with a note" not in ova(site.repository.vm_metadata(first))
    assert "now with a note" in ova(site.repository.vm_metadata(second))
    assert second.metadata is not None
    assert second.metadata.key == f"metadata/{second.key.removeprefix('points/')}"
    assert second.metadata.size == len(site.repository.vm_metadata(second))
    assert "session_id" not in caplog.text


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"failure": ["403"]}, "may not call GET /export_metadata; it needs the role vm-admin"),
        ({"failure": ["500"]}, "GET /export_metadata: HTTP status 500"),
        ({"drop_reply": True}, "ended before the answer did"),
        ({"delay": 1.5}, "not all of it within 0.5 s"),
    ],
    ids=["role", "status", "cut", "slow"],
)
def test_metadata_that_cannot_be_had_are_a_remark(
    make_site: MakeSite, fault: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_metadata, "DEADLINE", 0.5 if "delay" in fault else 60.0)
    site = make_site(SPEC)
    site.pool.add_fault(xapi="http/export_metadata", **fault)
    result = site.night()
    assert (result.status, len(result.warnings)) == ("succeeded", 1)
    assert said in result.warnings[0]
    assert result.warnings[0].startswith('VM "web": ')
    assert "OpaqueRef" not in result.warnings[0]
    [point] = site.repository.points()
    assert point.metadata is None
    with pytest.raises(RepositoryError, match="without its VM's metadata"):
        site.repository.vm_metadata(point)


def test_a_pool_that_has_none_to_give_is_no_remark_every_night(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    vm_metadata._say_once.cache_clear()
    site = make_site(SPEC)
    site.pool.add_fault(xapi="http/export_metadata", failure=["404"], count=-1)
    for _ in range(2):
        result = site.night()
        assert (result.status, result.warnings) == ("succeeded", ())
    assert caplog.text.count("this pool does not serve that") == 1


def test_metadata_are_had_although_the_session_has_ended(make_site: MakeSite) -> None:
    site = make_site(SPEC)
    with Session.login("lab", site.settings.pool("lab")) as session:
        site.pool.end_sessions()
        path = f"/export_metadata?uuid={site.pool.vms()[0]['uuid']}"
        assert "root" in ova(session.download(path, limit=MAX_VM_METADATA, deadline=10))
    site.log_out()
    assert site.pool.leftovers()["sessions"] == 0


@pytest.mark.parametrize(
    ("head", "said"),
    [("Content-Length: 2000\r\n", "2000 bytes are more than"), ("", "does not say how long it is")],
)
def test_an_answer_that_is_too_long_or_of_no_length_is_not_taken(head: str, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            accepted, _ = listening.accept()
            with accepted:
                assert b"Cookie: session_id=secret\r\n" in accepted.recv(65536)
                accepted.sendall(f"HTTP/1.0 200 OK\r\n{head}\r\n".encode() + bytes(2000))

        server = threading.Thread(target=answer)
        server.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = PoolSettings(url=url, username="root", password="x")
        with pytest.raises(BadAnswer, match=said) as caught:
            download(Server.from_settings("lab", settings), "/export_metadata", "secret", 5, 1000, 5)
        server.join()
    assert "secret" not in str(caught.value)
