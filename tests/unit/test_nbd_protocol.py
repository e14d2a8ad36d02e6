"""The bytes of requests and replies."""

from __future__ import annotations

import pytest

from workers.nbd import ProtocolViolation, protocol


@pytest.mark.parametrize(
    ("handle", "offset", "length", "expected"),
    [
        (1, 0, 512, "25609513 0000 0000 0000000000000001 0000000000000000 00000200"),
        (2**64 - 1, 1 << 42, 32 << 20, "25609513 0000 0000 ffffffffffffffff 0000040000000000 02000000"),
        (7, (64 << 40) - 512, 512, "25609513 0000 0000 0000000000000007 00003ffffffffe00 00000200"),
    ],
)
def test_read_request(handle: int, offset: int, length: int, expected: str) -> None:
    assert protocol.read_request(handle, offset, length) == bytes.fromhex(expected)


def test_disconnect_request() -> None:
    assert protocol.disconnect_request() == bytes.fromhex("25609513 0000 0002" + "00" * 20)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("67446698 00000000 0000000000000005", (5, 0)),
        ("67446698 00000016 fffffffffffffffe", (2**64 - 2, 22)),
    ],
)
def test_reply(header: str, expected: tuple[int, int]) -> None:
    assert protocol.parse_reply(bytes.fromhex(header), "server") == expected


def test_structured_reply_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="0x668e33ef"):
        protocol.parse_reply(bytes.fromhex("668e33ef 00000000 0000000000000005"), "server")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (1, "EPERM"),
        (5, "EIO"),
        (12, "ENOMEM"),
        (22, "EINVAL"),
        (28, "ENOSPC"),
        (75, "EOVERFLOW"),
        (95, "ENOTSUP"),
        (108, "ESHUTDOWN"),
        (77, "error 77"),
    ],
)
def test_errno_names(error: int, name: str) -> None:
    assert protocol.errno_name(error) == name


@pytest.mark.parametrize("size", [0, 1, 512, 64 << 40])
def test_export_size(size: int) -> None:
    assert protocol.parse_export(size.to_bytes(8, "big") + b"\x00\x03" + bytes(124), "server") == size


@pytest.mark.parametrize("size", [(64 << 40) + 1, 2**63, 2**64 - 1])
def test_absurd_export_size(size: int) -> None:
    with pytest.raises(ProtocolViolation, match=str(size)):
        protocol.parse_export(size.to_bytes(8, "big") + b"\x00\x03" + bytes(124), "server")
