"""The handshake, fed with tables of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.nbd import (
    Busy,
    ConnectionLost,
    ExportRefused,
    NbdError,
    ProtocolViolation,
    TlsRefused,
)
from workers.nbd.handshake import ExportName, Handshake, Step

MAGIC = b"NBDMAGICIHAVEOPT"
GREETING = MAGIC + b"\x00\x01"
STARTTLS = b"IHAVEOPT" + bytes.fromhex("00000005 00000000")
ACK = bytes.fromhex("0003e889045565a9 00000005 00000001 00000000")
EXPORT_NAME = b"IHAVEOPT" + bytes.fromhex("00000001 00000003") + b"/ab"
ANSWER = bytes.fromhex("0000000001000000 0003") + bytes(124)


def handshake(*, tls: bool, at: Step = Step.GREETING) -> Handshake:
    machine = Handshake(ExportName("/ab"), tls=tls, where="server")
    if at is not Step.GREETING:
        machine.feed(GREETING)
    if tls and at in (Step.TLS, Step.EXPORT):
        machine.feed(ACK)
    if tls and at is Step.EXPORT:
        machine.secured()
    assert machine.step is at
    return machine


def test_with_tls() -> None:
    machine = handshake(tls=True)
    assert machine.wanted == 18
    assert machine.feed(GREETING) == b"\x00\x00\x00\x01" + STARTTLS
    assert machine.wanted == 20
    assert machine.feed(ACK) == b""
    assert (machine.step, machine.wanted) == (Step.TLS, 0)
    assert machine.secured() == EXPORT_NAME
    assert machine.wanted == 134
    assert machine.feed(ANSWER) == b""
    assert (machine.step, machine.wanted, machine.size) == (Step.READY, 0, 16 << 20)


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ("0000", "00000000"),
        ("0001", "00000001"),
        ("0002", "00000000"),
        ("0003", "00000001"),
        ("ffff", "00000001"),
    ],
)
def test_without_tls_only_offered_flags_are_taken_and_never_no_zeroes(offered: str, taken: str) -> None:
    machine = handshake(tls=False)
    assert machine.feed(MAGIC + bytes.fromhex(offered)) == bytes.fromhex(taken) + EXPORT_NAME
    machine.feed(ANSWER)
    assert (machine.step, machine.size) == (Step.READY, 16 << 20)


@pytest.mark.parametrize("piece", [1, 2, 7, 19])
def test_bytes_in_pieces(piece: int) -> None:
    machine = handshake(tls=True)
    sent = bytearray()
    for message in (GREETING, ACK, ANSWER):
        for start in range(0, len(message), piece):
            sent += machine.feed(message[start : start + piece])
        if machine.step is Step.TLS:
            sent += machine.secured()
    assert sent == b"\x00\x00\x00\x01" + STARTTLS + EXPORT_NAME
    assert machine.step is Step.READY


@pytest.mark.parametrize(
    ("tls", "at", "data", "error", "text"),
    [
        (True, Step.GREETING, b"HTTP/1.1 400 Bad R", ProtocolViolation, "not an NBD server"),
        (
            True,
            Step.GREETING,
            b"NBDMAGIC" + bytes.fromhex("00000420281861253000")[:10],
            ProtocolViolation,
            "greets",
        ),
        (
            True,
            Step.GREETING,
            b"NBDMAGIC" + bytes.fromhex("0000420281861253 0000"),
            ProtocolViolation,
            "oldstyle",
        ),
        (True, Step.GREETING, MAGIC + b"\x00\x00", TlsRefused, "no TLS"),
        (True, Step.GREETING, MAGIC + b"\x00\x02", TlsRefused, "no TLS"),
        (True, Step.STARTTLS, b"\x01" + ACK[1:], ProtocolViolation, "something else"),
        (True, Step.STARTTLS, ACK[:8] + b"\x00\x00\x00\x01" + ACK[12:], ProtocolViolation, "something else"),
        (True, Step.STARTTLS, ACK[:12] + b"\x00\x00\x00\x02" + ACK[16:], ProtocolViolation, "reply 2"),
        (True, Step.STARTTLS, ACK[:16] + b"\x00\x00\x00\x04", ProtocolViolation, "of 4 bytes"),
        (True, Step.TLS, b"x", ProtocolViolation, "more than was asked for"),
        (True, Step.EXPORT, b"\xff" + ANSWER[1:], ProtocolViolation, "bytes"),
        (False, Step.EXPORT, ANSWER + b"x", ProtocolViolation, "more than was asked for"),
    ],
)
def test_wrong_bytes(tls: bool, at: Step, data: bytes, error: type[NbdError], text: str) -> None:
    with pytest.raises(error, match=text):
        handshake(tls=tls, at=at).feed(data)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "ERR_UNSUP"),
        (2, "ERR_POLICY"),
        (3, "ERR_INVALID"),
        (4, "ERR_PLATFORM"),
        (5, "ERR_TLS_REQD"),
        (6, "ERR_UNKNOWN"),
        (7, "ERR_SHUTDOWN"),
        (8, "ERR_BLOCK_SIZE_REQD"),
        (9, "ERR_TOO_BIG"),
        (99, "option error 99"),
    ],
)
@pytest.mark.parametrize("text_length", [0, 40])
def test_starttls_refused(number: int, name: str, text_length: int) -> None:
    answer = ACK[:12] + (1 << 31 | number).to_bytes(4, "big") + text_length.to_bytes(4, "big")
    with pytest.raises(TlsRefused, match=name) as caught:
        handshake(tls=True, at=Step.STARTTLS).feed(answer)
    assert caught.value.advice == "give-up"


@pytest.mark.parametrize(
    ("tls", "at", "before", "error", "advice"),
    [
        (True, Step.GREETING, b"", Busy, "back-off"),
        (False, Step.GREETING, b"", Busy, "back-off"),
        (True, Step.GREETING, b"NBDM", ConnectionLost, "retry-elsewhere"),
        (True, Step.STARTTLS, b"", ConnectionLost, "retry-elsewhere"),
        (True, Step.EXPORT, b"", ExportRefused, "retry-elsewhere"),
        (False, Step.EXPORT, b"", ExportRefused, "retry-elsewhere"),
        (True, Step.EXPORT, ANSWER[:10], ConnectionLost, "retry-elsewhere"),
    ],
)
def test_the_end_means(tls: bool, at: Step, before: bytes, error: type[NbdError], advice: str) -> None:
    machine = handshake(tls=tls, at=at)
    machine.feed(before)
    ended = machine.ended()
    assert (type(ended), ended.advice) == (error, advice)


@given(st.booleans(), st.lists(st.binary(max_size=160), max_size=6))
def test_any_bytes_end_in_a_step_or_in_an_error_of_ours(tls: bool, pieces: list[bytes]) -> None:
    machine = handshake(tls=tls)
    try:
        for piece in [GREETING, *pieces]:
            sent = bytes(machine.feed(piece))
            assert not tls or b"/ab" not in sent
    except NbdError:
        pass


@pytest.mark.parametrize("at", [Step.GREETING, Step.STARTTLS, Step.EXPORT])
def test_the_export_name_needs_tls_first(at: Step) -> None:
    with pytest.raises(RuntimeError, match=at.name):
        handshake(tls=True, at=at).secured()


def test_the_export_name_is_hidden() -> None:
    name = ExportName("/vdi?session_id=OpaqueRef:secret")
    machine = Handshake(name, tls=False, where="server")
    shown = f"{name} {name!r} {vars(machine)} {machine.feed(GREETING)!r}"
    assert "secret" not in shown
    assert "session_id" not in shown
    with pytest.raises(ValueError, match="4096") as caught:
        ExportName("secret" * 700)
    assert "secret" not in str(caught.value)
    assert ExportName("é" * 2048).option(b"")[16:] == "é".encode() * 2048
