"""The recovery key: the master secret in a form that can be printed, kept in a safe and typed in again.

32 bytes master secret + 3 bytes checksum = 56 digits of Crockford's base 32 = 14 groups of four
"""

from __future__ import annotations

from blake3 import blake3

from workers.errors import ConfigurationError
from workers.repository.keys import SECRET_SIZE

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans(
    {"O": "0", "I": "1", "L": "1", "-": None, " ": None, "\n": None, "\r": None, "\t": None}
)
_CHECKSUM_SIZE = 3
_LENGTH = (SECRET_SIZE + _CHECKSUM_SIZE) * 8 // 5
_GROUP = 4


def encode_recovery_key(master: bytes) -> str:
    number = int.from_bytes(master + _checksum(master))
    digits = "".join(_DIGITS[number >> 5 * place & 31] for place in reversed(range(_LENGTH)))
    return "-".join(digits[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def decode_recovery_key(text: str) -> bytes:
    """The master secret. Raises ConfigurationError when a digit is wrong, missing or too many."""
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
    data = number.to_bytes(SECRET_SIZE + _CHECKSUM_SIZE)
    master, checksum = data[:SECRET_SIZE], data[SECRET_SIZE:]
    if checksum != _checksum(master):
        raise ConfigurationError("the recovery key's checksum does not match: look for a mistyped character")
    return master


def _checksum(master: bytes) -> bytes:
    return blake3(b"cbtfleet recovery key" + master).digest(length=_CHECKSUM_SIZE)
