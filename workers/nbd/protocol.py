"""The bytes of NBD, without sockets: numbers, names, requests and simple replies.

Source: the protocol document of the NBD project (doc/proto.md). All integers are big-endian.

    request   magic 4 | command flags 2 | type 2 | handle 8 | offset 8 | length 4     28 bytes
    reply     magic 4 | error 4 | handle 8                                            16 bytes, then the data
"""

from __future__ import annotations

import struct

from workers.extents import MAX_DISK_SIZE
from workers.nbd.errors import ProtocolViolation

GREETING_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OLDSTYLE_MAGIC = 0x00420281861253
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698

FLAG_FIXED_NEWSTYLE = 1 << 0

OPTION_EXPORT_NAME = 1
OPTION_ABORT = 2
OPTION_STARTTLS = 5

REPLY_ACK = 1
REPLY_ERROR_BIT = 1 << 31

COMMAND_READ = 0
COMMAND_DISCONNECT = 2

MAX_READ = 32 << 20
"""Bytes one read may ask for: what every server is expected to accept."""

MAX_EXPORT_NAME = 4096
"""Bytes an export name may have."""

GREETING = struct.Struct(">QQH")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT = struct.Struct(">QH124x")
"""Size and flags, then 124 reserved bytes, which a server leaves out only for a client that asked it to."""

REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")

_ERRNO_NAMES = {
    1: "EPERM",
    5: "EIO",
    12: "ENOMEM",
    22: "EINVAL",
    28: "ENOSPC",
    75: "EOVERFLOW",
    95: "ENOTSUP",
    108: "ESHUTDOWN",
}

_OPTION_ERROR_NAMES = {
    1: "ERR_UNSUP",
    2: "ERR_POLICY",
    3: "ERR_INVALID",
    4: "ERR_PLATFORM",
    5: "ERR_TLS_REQD",
    6: "ERR_UNKNOWN",
    7: "ERR_SHUTDOWN",
    8: "ERR_BLOCK_SIZE_REQD",
    9: "ERR_TOO_BIG",
}


def errno_name(error: int) -> str:
    """The NBD name of a reply's error number; the numbers are NBD's own, whatever the server runs on."""
    return _ERRNO_NAMES.get(error, f"error {error}")


def option_error_name(reply: int) -> str:
    """The name of an option reply with REPLY_ERROR_BIT set."""
    number = reply & ~REPLY_ERROR_BIT
    return _OPTION_ERROR_NAMES.get(number, f"option error {number}")


def read_request(handle: int, offset: int, length: int) -> bytes:
    """A read of `length` bytes at byte `offset`. No command flag: XenServer refuses every one of them."""
    return REQUEST.pack(REQUEST_MAGIC, 0, COMMAND_READ, handle, offset, length)


def disconnect_request() -> bytes:
    """The polite end. It has no reply: the server closes the connection."""
    return REQUEST.pack(REQUEST_MAGIC, 0, COMMAND_DISCONNECT, 0, 0, 0)


def parse_reply(header: bytes | bytearray | memoryview, where: str) -> tuple[int, int]:
    """The handle and the error number (0: success, the data follows) of a simple reply's 16 bytes.

    Raises ProtocolViolation when they are something else.
    """
    magic, error, handle = REPLY.unpack(header)
    if magic != SIMPLE_REPLY_MAGIC:
        raise ProtocolViolation(
            f"{where} sent {magic:#010x} where a reply should start; give up on this server"
        )
    return handle, error


def parse_export(data: bytes | bytearray | memoryview, where: str) -> int:
    """The disk's size in bytes from the 134 bytes that answer EXPORT_NAME.

    Raises ProtocolViolation for a size that no disk has.
    """
    size: int = EXPORT.unpack(data)[0]
    if size > MAX_DISK_SIZE:
        raise ProtocolViolation(f"{where} says that the disk has {size} bytes, more than any disk; not read")
    return size
