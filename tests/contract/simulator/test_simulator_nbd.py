"""xapi-nbd, byte by byte, with raw sockets."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import Any

import pytest

from infra.simulator import DiskSpec, SimulatedPool, Timing, UserSpec
from tests.until import until

STARTTLS, EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED_REPLY = 5, 1, 2, 3, 6, 7, 8
UNSUP, POLICY, INVALID, TLS_REQD = (0x80000000 + number for number in (1, 2, 3, 5))
READ, WRITE, DISC, FLUSH, TRIM, BLOCK_STATUS = 0, 1, 2, 3, 4, 7
MAGIC = 0x67446698
Info = dict[str, str]


@pytest.fixture
def info(api: Any, pool: SimulatedPool, vm: Any, nbd_info: Any) -> Info:
    """Where a snapshot of 4 MiB can be read on the first host."""
    return dict(nbd_info(api, api.VDI.snapshot(vm.disks[0])))


def vdi_of(info: Info) -> str:
    return info["exportname"].partition("?")[0].removeprefix("/")


def test_a_whole_disk(pool: SimulatedPool, nbd: Any, info: Info) -> None:
    client = nbd(info)
    assert client.greet() == b"NBDMAGICIHAVEOPT\x00\x01"
    client.start_tls(info)
    assert client.socket.version() == "TLSv1.2"
    assert client.export(info) == struct.pack(">QH", 4 << 20, 3) + bytes(124)
    data = b""
    for handle, offset in enumerate(range(0, 4 << 20, 1 << 20)):
        client.request(READ, offset, 1 << 20, handle)
    for handle in range(4):
        assert client.reply() == (MAGIC, 0, handle)
        data += client.receive(1 << 20)
    assert data == pool.content(vdi_of(info))
    client.request(DISC)
    assert client.eof()
    pool.wait_until_let_go()
    entry = pool.log()["connections"][-1]
    assert (entry["outcome"], entry["vdi"], entry["bytes"]) == ("disconnected", vdi_of(info), 4 << 20)
    reads = [read for read in pool.log()["reads"] if read["connection"] == entry["id"]]
    assert [read["offset"] for read in reads] == [0, 1 << 20, 2 << 20, 3 << 20]


@pytest.mark.parametrize(
    ("option", "answer"),
    [(EXPORT_NAME, None), (ABORT, None), (LIST, TLS_REQD), (INFO, TLS_REQD), (GO, TLS_REQD),
     (STRUCTURED_REPLY, TLS_REQD), (99, TLS_REQD)],
)  # fmt: skip
def test_options_before_tls(nbd: Any, info: Info, option: int, answer: int | None) -> None:
    client = nbd(info)
    client.greet()
    client.option(option, info["exportname"].encode())
    if answer is None:
        assert client.eof()
    else:
        assert client.option_reply() == (0x3E889045565A9, option, answer, 0)
        client.start_tls(info)
        assert len(client.export(info)) == 134


_AFTER = [(LIST, POLICY), (INFO, UNSUP), (GO, UNSUP), (STRUCTURED_REPLY, UNSUP), (99, UNSUP)]


def after_options(client: Any, info: Info, starttls_again: int) -> None:
    for option, answer in [(STARTTLS, starttls_again), *_AFTER]:
        client.option(option, b"data")
        assert client.option_reply() == (0x3E889045565A9, option, answer, 0)
    client.option(ABORT)
    assert client.option_reply() == (0x3E889045565A9, ABORT, 1, 0)
    assert client.eof()


def test_options_inside_tls(nbd: Any, info: Info) -> None:
    client = nbd(info)
    client.greet()
    client.start_tls(info)
    after_options(client, info, INVALID)


def test_without_tls(start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any) -> None:
    pool = start_pool(purpose="insecure_nbd")
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    client = nbd(info)
    client.greet()
    after_options(client, info, POLICY)
    client = nbd(info)
    client.greet(flags=0)
    assert len(client.export(info)) == 134
    client.request(READ, 0, 512)
    assert client.reply() == (MAGIC, 0, 7)
    assert client.receive(512) == pool.content(vdi_of(info))[:512]


def test_handshakes_that_end_at_once(nbd: Any, info: Info) -> None:
    old = nbd(info)
    old.greet(flags=0)
    assert old.eof()
    wrong = nbd(info)
    wrong.greet()
    wrong.socket.sendall(b"IHAVENOT" + bytes(8))
    assert wrong.eof()


def test_refused_exports_give_no_reason(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any
) -> None:
    pool = start_pool(users=(UserSpec("viewer", "pw", "read-only"),))
    api, viewer = login(pool), login(pool, "viewer", "pw")
    made = machine(pool, api, (DiskSpec(4 << 20, cbt=True),) * 2)
    good = nbd_info(api, api.VDI.snapshot(made.disks[0]))
    purged = api.VDI.snapshot(made.disks[1])
    gone = nbd_info(api, purged)
    api.VDI.data_destroy(purged)
    uuid = vdi_of(good)
    for name in (
        f"/{uuid}?session_id=OpaqueRef:none",
        f"/00000000-0000-0000-0000-000000000000?session_id={api.ref}",
        f"/{uuid}",
        uuid,
        f"/{uuid}?session_id={viewer.ref}",
        gone["exportname"],
        f"/{made.uuids[0]}?session_id={api.ref}",
    ):
        client = nbd(good)
        assert client.open({**good, "exportname": name}) == b""
    client = nbd(good)
    assert len(client.open(good)) == 134
    client.close()
    pool.wait_until_let_go()
    outcomes = [entry["outcome"] for entry in pool.log()["connections"]]
    assert outcomes[0] == "refused-session-invalid"
    assert outcomes[6] == "refused-vdi-in-use"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ((WRITE, 0, 512), 1),
        ((FLUSH, 0, 0), 22),
        ((TRIM, 0, 512), 22),
        ((BLOCK_STATUS, 0, 512), 22),
        ((READ | 1 << 16, 0, 512), 22),
        ((99, 0, 0), 22),
        ((READ, 1, 512), 22),
        ((READ, 0, 513), 22),
    ],
)
def test_every_error_reply_ends_the_connection(
    nbd: Any, info: Info, request_: tuple[int, int, int], error: int
) -> None:
    client = nbd(info)
    client.open(info)
    client.request(*request_)
    assert client.reply() == (MAGIC, error, 7)
    assert client.eof()


@pytest.mark.parametrize(
    ("offset", "length", "most"),
    [
        (4 << 20, 512, 0),
        ((4 << 20) - 512, 1024, 512),
        (1 << 40, 512, 0),
        (0, 1 << 31, 0),
        (0, 8 << 20, 4 << 20),
    ],
)
def test_out_of_range_looks_like_success_until_the_end(
    nbd: Any, info: Info, offset: int, length: int, most: int
) -> None:
    client = nbd(info)
    client.open(info)
    client.request(READ, offset, length)
    assert client.reply() == (MAGIC, 0, 7)
    assert len(client.receive(length)) <= most


def test_a_wrong_request_magic(nbd: Any, info: Info) -> None:
    client = nbd(info)
    client.open(info)
    client.request(READ, 0, 512, magic=1)
    assert client.eof()


def test_the_seventeenth_connection_hears_nothing(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any
) -> None:
    pool = start_pool(timing=Timing(slot_release_delay=0.3))
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    clients = [nbd(info) for _ in range(16)]
    for client in clients:
        assert len(client.receive(18)) == 18
    assert nbd(info).eof()
    started = time.monotonic()
    clients[0].close()
    until(lambda: pool.log()["connections"][0]["closed"] is not None)
    assert nbd(info).eof()
    until(lambda: len(pool.log()["slots"]) == 1 and set(pool.log()["slots"].values()) == {15})
    assert time.monotonic() - started >= 0.3
    assert len(nbd(info).receive(18)) == 18
    log, host = pool.log(), pool.hosts[0].uuid
    assert log["peak"] == {host: 16}
    assert log["peak_sockets"] == {host: 16}
    assert log["rejects"] == {host: 2}


def test_the_disk_stays_plugged_until_the_slot_is_free(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any, failure: Any
) -> None:
    pool = start_pool(timing=Timing(slot_release_delay=0.1, data_destroy_wait=0.1))
    api = login(pool)
    vdi = api.VDI.snapshot(machine(pool, api).disks[0])
    info = nbd_info(api, vdi)
    clients = [nbd(info), nbd(info)]
    for client in clients:
        client.open(info)
    assert len(pool.leftovers()["plugged_vbds"]) == 2
    dom0 = api.VBD.get_VM(api.VDI.get_VBDs(vdi)[0])
    assert api.VM.get_is_control_domain(dom0)
    assert failure(api.VDI.data_destroy, vdi) == ["VDI_IN_USE", vdi, "data_destroy"]
    assert failure(api.VDI.destroy, vdi) == ["VDI_IN_USE", vdi, "destroy"]
    first = api.VDI.get_snapshot_of(vdi)
    assert failure(api.VDI.list_changed_blocks, first, vdi) == ["VDI_IN_USE", vdi, "list_changed_blocks"]
    api.session.logout()
    clients[0].request(READ, 0, 512)
    assert clients[0].reply() == (MAGIC, 0, 7)
    for client in clients:
        client.close()
    pool.wait_until_let_go()
    assert pool.leftovers()["plugged_vbds"] == []
    login(pool).VDI.data_destroy(vdi)


def test_plugging_takes_its_time(start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any) -> None:
    pool = start_pool(timing=Timing(plug_delay=0.3))
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    client = nbd(info)
    client.greet()
    client.start_tls(info)
    started = time.monotonic()
    assert len(client.export(info)) == 134
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("purposes", [[], ["nbd", "insecure_nbd"]])
def test_no_purpose_and_both_are_silence(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any, purposes: list[str]
) -> None:
    pool = start_pool()
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    with pool.state.lock:
        for network in pool.state.database.refs("network"):
            pool.state.database.update("network", network, purpose=purposes)
    assert nbd(info).eof()


def test_the_firewall_follows_the_purpose(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any
) -> None:
    pool = start_pool(firewall="iptables", timing=Timing(firewall_delay=0.05))
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    client = nbd(info)
    client.open(info)
    api.network.remove_purpose(api.network.get_by_name_label("management")[0], "nbd")
    assert client.eof()
    with pytest.raises(ConnectionRefusedError):
        nbd(info)
    storage = next(entry for entry in api.VDI.get_nbd_info(api.VDI.get_by_uuid(vdi_of(info))))
    assert storage["address"] == "127.0.2.1"
    assert len(nbd(storage).open(storage)) == 134


def test_an_odd_size_to_the_last_sector(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any
) -> None:
    pool = start_pool()
    api = login(pool)
    size = 3 * 65536 + 1536
    made = machine(pool, api, (DiskSpec(size, fill="random"),))
    info = nbd_info(api, api.VDI.snapshot(made.disks[0]))
    client = nbd(info)
    assert struct.unpack(">QH", client.open(info)[:10]) == (size, 3)
    client.request(READ, 3 * 65536, 1536)
    assert client.reply() == (MAGIC, 0, 7)
    assert client.receive(1536) == pool.content(vdi_of(info))[-1536:]


def test_only_ipv4_is_served(pool: SimulatedPool) -> None:
    families = {listener._socket.family for host in pool.hosts for _, listener in host._nbd.values()}
    assert families == {socket.AF_INET}


def test_a_crowd_never_gets_more_than_sixteen(
    start_pool: Any, login: Any, machine: Any, nbd: Any, nbd_info: Any
) -> None:
    pool = start_pool(timing=Timing(slot_release_delay=0.01, plug_delay=0.01))
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    content = pool.content(vdi_of(info))
    served: list[bool] = []

    def one(number: int) -> None:
        for read in range(6):
            client = nbd(info)
            if not client.receive(1):
                continue
            client.receive(17)
            client.socket.sendall(struct.pack(">I", 1))
            client.start_tls(info)
            client.export(info)
            offset = (number * 6 + read) % 60 * 65536
            client.request(READ, offset, 65536)
            client.reply()
            served.append(client.receive(65536) == content[offset : offset + 65536])
            client.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.wait_until_let_go()
    log = pool.log()
    assert log["peak"][pool.hosts[0].uuid] <= 16
    assert served.count(True) == len(served) == 24 * 6 - sum(log["rejects"].values())
    assert pool.leftovers()["plugged_vbds"] == []
