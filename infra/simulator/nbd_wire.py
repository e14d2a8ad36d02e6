"""NBD's numbers and the few structures that xapi-nbd uses, encoded and decoded from the server's side."""

from __future__ import annotations

import struct
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 0x0001)
"""Fixed newstyle; no NO_ZEROES, so 124 zeros always follow."""
OPTION_MAGIC = b"IHAVEOPT"
FIXED_NEWSTYLE = 0x1

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
REP_ACK = 1
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_TLS_REQD = (0x80000000 + number for number in (1, 2, 3, 5))

READ, WRITE, DISCONNECT = 0, 1, 2
EPERM, EINVAL = 1, 22
REQUEST = struct.Struct(">IIQQI")
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
_REPLY = struct.Struct(">IIQ")


class NbdRequest(NamedTuple):
    """`type` is all 32 bits, flags included: xapi-nbd takes them for one number."""

    magic: int
    type: int
    handle: int
    offset: int
    length: int


def option_reply(option: int, kind: int) -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, 0)


def export_reply(size: int) -> bytes:
    """Size, flags HAS_FLAGS and READ_ONLY, and 124 zeros."""
    return struct.pack(">QH124x", size, 0x0003)


def reply(handle: int, error: int = 0, magic: int = REPLY_MAGIC) -> bytes:
    return _REPLY.pack(magic, error, handle)


def parse_export_name(name: bytes) -> tuple[str, str] | None:
    """(VDI uuid, session) of `/<uuid>?session_id=<ref>`; None when it is something else."""
    try:
        parts = urlsplit(name.decode())
        session = parse_qs(parts.query)["session_id"][0]
    except (ValueError, KeyError):
        return None
    return parts.path.removeprefix("/"), session
