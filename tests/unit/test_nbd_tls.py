"""The connection over TLS against a scripted server: trust, and that nothing secret goes out before it."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.certificates import Identity, make_identity
from tests.nbd_peer import DISCONNECT, GREETING, STARTTLS, Line, Peer, export_answer, reply, starttls_error
from workers.nbd import (
    Abort,
    Connection,
    ConnectionLost,
    Deadlines,
    ExportRefused,
    NbdError,
    Read,
    Stalled,
    Tls,
    TlsFailed,
    TlsMisconfigured,
    TlsRefused,
    TlsUntrusted,
    connect,
)

SIZE = 16 << 20
EXPORT_NAME = "/1234?session_id=OpaqueRef:secret"
PATIENT = Deadlines(connect=10, handshake=10, read=10, close=10)
"""Never to be met; a busy machine must not fail a test."""
PLAIN_PART = b"\x00\x00\x00\x01" + STARTTLS

AUTHORITY = make_identity(common_name="CA of the lab", authority=True)
OTHER_AUTHORITY = make_identity(common_name="CA of the lab", authority=True)
HOST = make_identity(common_name="xen1.example", dns=("xen1.example",))
RENEWED = make_identity(common_name="xen1.example", dns=("xen1.example",), key=HOST.key)
REPLACED = make_identity(common_name="xen1.example", dns=("xen1.example",))
ISSUED = make_identity(dns=("xen1.example",), issuer=AUTHORITY)
ISSUED_WILDCARD = make_identity(dns=("*.lab.example",), issuer=AUTHORITY)
ISSUED_ADDRESS = make_identity(addresses=("127.0.0.1",), issuer=AUTHORITY)
ISSUED_COMMON_NAME = make_identity(common_name="xen1.example", issuer=AUTHORITY)
ISSUED_EXPIRED = make_identity(dns=("xen1.example",), issuer=AUTHORITY, expired=True)

VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name
)


def dial(peer: Peer, tls: Tls, deadlines: Deadlines = PATIENT, abort: Abort | None = None) -> Connection:
    return connect(peer.address, peer.port, EXPORT_NAME, tls, deadlines, abort=abort)


def secured(context: ssl.SSLContext, then: Callable[[Line], None]) -> Callable[[Line], None]:
    def script(line: Line) -> None:
        line.start_tls(context)
        then(line)

    return script


def serve(line: Line) -> None:
    """Opens the disk and answers reads with the low byte of their offset in blocks, until DISC."""
    line.export_name()
    line.send(export_answer(SIZE))
    while True:
        header = line.receive(28)
        if header == DISCONNECT:
            return
        handle, offset, length = (
            int.from_bytes(header[a:b], "big") for a, b in ((8, 16), (16, 24), (24, 28))
        )
        line.send(reply(handle, bytes([offset >> 16 & 0xFF]) * length))


def nothing(line: Line) -> None:
    pass


def record(line: Line) -> None:
    line.receive_to_end()


def ca_mode(folder: Path, subject: str | None, authority: Identity = AUTHORITY) -> Tls:
    return Tls("ca", None, subject, authority.write(folder, "ca")[0])


# -- trusted


@VERSIONS
@pytest.mark.parametrize("mode", ["certificate", "public-key"])
def test_reads_over_tls(mode: str, version: ssl.TLSVersion, tmp_path: Path) -> None:
    context = HOST.server_context(tmp_path, version)
    tls = Tls(mode, HOST.pem, "xen1.example")  # type: ignore[arg-type]
    with Peer(secured(context, serve)) as peer, dial(peer, tls) as connection:
        assert connection.size == SIZE
        requests = [Read(n << 16, memoryview(bytearray(100_000 + n))) for n in range(40)]
        for request in connection.read(iter(requests), window=1 << 20):
            number = request.offset >> 16
            assert request.buffer == bytes([number]) * (100_000 + number)
        assert connection.close() is True
    assert peer.received.startswith(PLAIN_PART + b"IHAVEOPT\x00\x00\x00\x01")
    assert peer.received.endswith(DISCONNECT)


def test_the_suite_of_xenserver(tmp_path: Path) -> None:
    host = make_identity(dns=("xen1.example",), key=rsa.generate_private_key(65537, 2048))
    context = host.server_context(tmp_path, ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES256-GCM-SHA384")
    context.set_ecdh_curve("secp384r1")
    with Peer(secured(context, serve)) as peer, dial(peer, Tls("certificate", host.pem)) as connection:
        assert connection.tls_version == "TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384"


@pytest.mark.parametrize(
    ("host", "subject"),
    [
        (ISSUED, "xen1.example"),
        (ISSUED_WILDCARD, "xen1.lab.example"),
        (ISSUED_WILDCARD, "*.lab.example"),
        (ISSUED_ADDRESS, "127.0.0.1"),
        (ISSUED_COMMON_NAME, "xen1.example"),
    ],
)
def test_trusted_by_its_ca(host: Identity, subject: str, tmp_path: Path) -> None:
    with (
        Peer(secured(host.server_context(tmp_path), serve)) as peer,
        dial(peer, ca_mode(tmp_path, subject)) as connection,
    ):
        assert connection.size == SIZE


def test_a_host_certificate_can_be_its_own_ca(tmp_path: Path) -> None:
    with (
        Peer(secured(HOST.server_context(tmp_path), serve)) as peer,
        dial(peer, ca_mode(tmp_path, "xen1.example", HOST)) as connection,
    ):
        assert connection.size == SIZE


def test_the_public_key_outlives_a_renewal(tmp_path: Path) -> None:
    with (
        Peer(secured(RENEWED.server_context(tmp_path), serve)) as peer,
        dial(peer, Tls("public-key", HOST.pem)) as connection,
    ):
        assert connection.size == SIZE


@pytest.mark.parametrize(
    ("subject", "asked"), [("xen1.example", "xen1.example"), ("*.lab.example", None), ("127.0.0.1", None)]
)
def test_the_server_name_that_is_asked_for(subject: str, asked: str | None, tmp_path: Path) -> None:
    names: list[str | None] = []
    context = HOST.server_context(tmp_path)
    context.sni_callback = lambda _, name, __: names.append(name)
    with (
        Peer(secured(context, serve)) as peer,
        dial(peer, Tls("certificate", HOST.pem, subject)),
    ):
        assert names == [asked]


# -- not trusted: nothing may have been sent but the handshake


@VERSIONS
@pytest.mark.parametrize(
    ("host", "tls", "text"),
    [
        (REPLACED, Tls("certificate", HOST.pem, "xen1.example"), "certificate check.*restart xapi-nbd"),
        (RENEWED, Tls("certificate", HOST.pem, "xen1.example"), "certificate check.*the key is the same"),
        (REPLACED, Tls("public-key", HOST.pem, "xen1.example"), "public-key check"),
    ],
    ids=["other certificate", "same key, other certificate", "other key"],
)
def test_untrusted(host: Identity, tls: Tls, text: str, version: ssl.TLSVersion, tmp_path: Path) -> None:
    context = host.server_context(tmp_path, version)
    with Peer(secured(context, record)) as peer, pytest.raises(TlsUntrusted, match=text) as caught:
        dial(peer, tls)
    assert caught.value.advice == "give-up"
    assert peer.received == PLAIN_PART


@VERSIONS
@pytest.mark.parametrize(
    ("host", "subject", "authority", "text"),
    [
        (ISSUED, "xen1.example", OTHER_AUTHORITY, "chain check.*ca_file"),
        (HOST, "xen1.example", AUTHORITY, "chain check: self.signed certificate"),
        (ISSUED_EXPIRED, "xen1.example", AUTHORITY, "chain check: certificate has expired"),
        (ISSUED, "xen2.example", AUTHORITY, "name check.*'xen2.example'.*'xen1.example'"),
        (ISSUED, "127.0.0.1", AUTHORITY, "name check.*'127.0.0.1'"),
        (ISSUED_WILDCARD, "a.xen1.lab.example", AUTHORITY, "name check"),
        (ISSUED_ADDRESS, "127.0.0.2", AUTHORITY, "name check.*not for '127.0.0.2' but for '127.0.0.1'"),
        (ISSUED_COMMON_NAME, "xen2.example", AUTHORITY, "name check.*'xen1.example'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_untrusted_by_ca(
    host: Identity, subject: str, authority: Identity, text: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    context = host.server_context(tmp_path, version)
    with Peer(secured(context, record)) as peer, pytest.raises(TlsUntrusted, match=text):
        dial(peer, ca_mode(tmp_path, subject, authority))
    assert peer.received == PLAIN_PART


def test_misconfigured_trust_opens_nothing() -> None:
    with Peer(record) as peer, pytest.raises(TlsMisconfigured):
        dial(peer, Tls("certificate"))
    assert not peer.received


# -- no TLS


@pytest.mark.parametrize(
    ("number", "name"), [(1, "ERR_UNSUP"), (2, "ERR_POLICY"), (3, "ERR_INVALID"), (5, "ERR_TLS_REQD")]
)
def test_starttls_is_refused(number: int, name: str) -> None:
    def refuse(line: Line) -> None:
        line.send(GREETING)
        line.receive(20)
        line.send(starttls_error(number))
        line.receive_to_end()

    with Peer(refuse) as peer, pytest.raises(TlsRefused, match=f"{name}.*purpose") as caught:
        dial(peer, Tls("certificate", HOST.pem))
    assert caught.value.advice == "give-up"
    assert peer.received == PLAIN_PART


def test_a_server_that_knows_no_tls_gets_no_name() -> None:
    def without_fixed_newstyle(line: Line) -> None:
        line.send(GREETING[:-1] + b"\x00")
        line.receive_to_end()

    with Peer(without_fixed_newstyle) as peer, pytest.raises(TlsRefused, match="no TLS"):
        dial(peer, Tls("certificate", HOST.pem))
    assert not peer.received


def end_at_starttls(line: Line) -> None:
    line.send(GREETING)
    line.receive(20)


def end_in_the_tls_handshake(line: Line) -> None:
    end_at_starttls(line)
    line.send(bytes.fromhex("0003e889045565a9 00000005 00000001 00000000"))
    line.socket.recv(100)


def speak_something_else(line: Line) -> None:
    end_in_the_tls_handshake(line)
    line.send(b"220 ready to serve you\r\n")
    line.receive_to_end()


def add_plain_bytes_to_the_answer(line: Line) -> None:
    """What a man in the middle could do: they must not be taken for what the server says later, over TLS."""
    end_at_starttls(line)
    line.send(bytes.fromhex("0003e889045565a9 00000005 00000001 00000000") + export_answer(SIZE))
    line.receive_to_end()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (end_at_starttls, ConnectionLost),
        (end_in_the_tls_handshake, TlsFailed),
        (speak_something_else, TlsFailed),
        (add_plain_bytes_to_the_answer, TlsFailed),
    ],
)
def test_tls_fails(script: Callable[[Line], None], error: type[NbdError]) -> None:
    with Peer(script) as peer, pytest.raises(error) as caught:
        dial(peer, Tls("certificate", HOST.pem))
    assert caught.value.advice == "retry-elsewhere"
    assert b"secret" not in peer.received


def test_old_tls_is_not_spoken(tmp_path: Path) -> None:
    context = HOST.server_context(tmp_path, ciphers="ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Peer(secured(context, record)) as peer, pytest.raises(TlsFailed, match="handshake"):
        dial(peer, Tls("certificate", HOST.pem))
    assert peer.received == PLAIN_PART


# -- the end, and the ends in the wrong place


@VERSIONS
@pytest.mark.parametrize("politely", [True, False])
def test_the_export_is_refused(politely: bool, version: ssl.TLSVersion, tmp_path: Path) -> None:
    def refuse(line: Line) -> None:
        line.export_name()
        if politely:
            line.socket = line.socket.unwrap()  # type: ignore[attr-defined]

    context = HOST.server_context(tmp_path, version)
    with Peer(secured(context, refuse)) as peer, pytest.raises(ExportRefused, match="try another host"):
        dial(peer, Tls("certificate", HOST.pem))
    assert peer.received.endswith(EXPORT_NAME.encode())


@VERSIONS
def test_the_end_in_the_middle_of_the_data(version: ssl.TLSVersion, tmp_path: Path) -> None:
    def cut(line: Line) -> None:
        line.export_name()
        line.send(export_answer(SIZE))
        [(handle, _, _)] = line.requests(1)
        line.send(reply(handle, bytes(50_000)))

    with (
        Peer(secured(HOST.server_context(tmp_path, version), cut)) as peer,
        dial(peer, Tls("certificate", HOST.pem)) as connection,
        pytest.raises(ConnectionLost, match="after 50000 of 65536 bytes at byte 0"),
    ):
        list(connection.read([Read(0, memoryview(bytearray(65536)))]))


def test_bytes_that_were_tampered_with(tmp_path: Path) -> None:
    def tamper(line: Line) -> None:
        line.export_name()
        line.send(export_answer(SIZE))
        line.requests(1)
        # below TLS: a record of application data that its key never sealed
        raw = line.socket.detach()
        with socket.socket(fileno=raw) as plain:
            plain.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
            while plain.recv(4096):
                pass

    with (
        Peer(secured(HOST.server_context(tmp_path), tamper)) as peer,
        dial(peer, Tls("certificate", HOST.pem)) as connection,
        pytest.raises(ConnectionLost, match="TLS broke"),
    ):
        list(connection.read([Read(0, memoryview(bytearray(65536)))]))


def stall_at_starttls(line: Line) -> None:
    end_at_starttls(line)
    line.stall()


def stall_in_the_tls_handshake(line: Line) -> None:
    end_in_the_tls_handshake(line)
    line.stall()


@pytest.mark.parametrize(
    ("script", "text"),
    [(stall_at_starttls, "answer STARTTLS"), (stall_in_the_tls_handshake, "complete the TLS handshake")],
)
def test_stalled_before_tls(script: Callable[[Line], None], text: str) -> None:
    with Peer(script) as peer:
        started = time.monotonic()
        with pytest.raises(Stalled, match=f"did not {text} within"):
            dial(peer, Tls("certificate", HOST.pem), Deadlines(handshake=0.4))
        assert 0.4 <= time.monotonic() - started < 8


def test_stalled_over_tls(tmp_path: Path) -> None:
    context = HOST.server_context(tmp_path)

    def stall_at_export(line: Line) -> None:
        line.export_name()
        line.stall()

    with (
        Peer(secured(context, stall_at_export)) as peer,
        pytest.raises(Stalled, match="did not open the disk"),
    ):
        dial(peer, Tls("certificate", HOST.pem), Deadlines(handshake=1))

    def stall_in_the_data(line: Line) -> None:
        line.export_name()
        line.send(export_answer(SIZE))
        [(handle, _, _)] = line.requests(1)
        line.send(reply(handle, bytes(20_000)))
        line.stall()

    with (
        Peer(secured(context, stall_in_the_data)) as peer,
        dial(peer, Tls("certificate", HOST.pem), Deadlines(read=0.4)) as connection,
        pytest.raises(Stalled, match="did not answer a read"),
    ):
        list(connection.read([Read(0, memoryview(bytearray(65536)))]))


def test_a_server_that_never_closes_does_not_hold_us(tmp_path: Path) -> None:
    def stall_at_the_end(line: Line) -> None:
        line.export_name()
        line.send(export_answer(SIZE))
        line.receive(28)
        line.stall()

    with Peer(secured(HOST.server_context(tmp_path), stall_at_the_end)) as peer:
        assert dial(peer, Tls("certificate", HOST.pem), Deadlines(close=0.4)).close() is False


@pytest.mark.parametrize("when", ["in the TLS handshake", "while the disk is attached", "in a read"])
def test_abort(when: str, tmp_path: Path) -> None:
    abort = Abort()
    context = HOST.server_context(tmp_path)

    def script(line: Line) -> None:
        if when == "in the TLS handshake":
            end_in_the_tls_handshake(line)
        else:
            line.start_tls(context)
            line.export_name()
            if when == "in a read":
                line.send(export_answer(SIZE))
                line.requests(1)
        abort.throw()
        line.stall()

    with (
        Peer(script) as peer,
        pytest.raises(ConnectionLost, match="aborted on our side"),
        dial(peer, Tls("certificate", HOST.pem), PATIENT, abort) as connection,
    ):
        list(connection.read([Read(0, memoryview(bytearray(65536)))]))
