"""The recovery key: a master secret in a form that can be printed, kept in a safe and typed in again.

16 bytes id, 1 generation, 32 master secret, 3 checksum = 84 digits of Crockford's base 32 = 21 groups of four
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from blake3 import blake3

from workers.errors import ConfigurationError
from workers.repository.keys import SECRET_SIZE

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans(
    {"O": "0", "I": "1", "L": "1", "-": None, " ": None, "\n": None, "\r": None, "\t": None}
)
_ID_SIZE = 16
_CHECKSUM_SIZE = 3
_SIZE = _ID_SIZE + 1 + SECRET_SIZE + _CHECKSUM_SIZE
_LENGTH = -(-_SIZE * 8 // 5)
_UNUSED = _LENGTH * 5 - _SIZE * 8
"""Zero bits at the end."""
_GROUP = 4


@dataclass(frozen=True)
class RecoveryKey:
    """`master` is the master secret of `generation`; with the bucket it is enough to read everything."""

    repository: str
    generation: int
    master: bytes = field(repr=False)


def encode_recovery_key(key: RecoveryKey) -> str:
    data = uuid.UUID(key.repository).bytes + bytes([key.generation]) + key.master
    number = int.from_bytes(data + _checksum(data)) << _UNUSED
    digits = "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))
    return "-".join(digits[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def decode_recovery_key(text: str) -> RecoveryKey:
    """Raises ConfigurationError when a digit is wrong, missing or too many."""
    digits = text.upper().translate(_READ_AS)
    if len(digits) != _LENGTH:
        raise ConfigurationError(
            f"a recovery key has {_LENGTH} letters and digits in groups of {_GROUP}, this has {len(digits)}"
        )
    number = 0
    for digit in digits:
        value = _DIGITS.find(digit)
        if value < 0:
            raise ConfigurationError("a recovery key has only letters and digits (no U), in groups of four")
        number = number << 5 | value
    data = (number >> _UNUSED).to_bytes(_SIZE)
    data, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
    if checksum != _checksum(data) or number & ((1 << _UNUSED) - 1):
        raise ConfigurationError("the recovery key's checksum does not match: look for a mistyped character")
    return RecoveryKey(str(uuid.UUID(bytes=data[:_ID_SIZE])), data[_ID_SIZE], data[_ID_SIZE + 1 :])


def _checksum(data: bytes) -> bytes:
    return blake3(b"cbtfleet recovery key" + data).digest(length=_CHECKSUM_SIZE)
