"""Orders: what a worker is told to read, signed by who may say so. Kept nowhere.

The order key comes from the metadata secret: whoever can write to the queue alone cannot make an order.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from workers.repository.errors import RepositoryError
from workers.repository.keys import MetadataKeys, WorkerKeys
from workers.repository.naming import binding

SIGNATURE_SIZE = 64


class OrderNotSigned(RepositoryError):
    """An order was not signed by a scheduler of this repository, or not this one."""


def sign_order(keys: MetadataKeys, order: bytes) -> bytes:
    """64 bytes; zeros in an unencrypted repository, where there is nobody who could be told from others."""
    if not keys.encrypted:
        return bytes(SIGNATURE_SIZE)
    return Ed25519PrivateKey.from_private_bytes(keys.order_key).sign(_signed(keys.repository, order))


def check_order(keys: WorkerKeys, order: bytes, signature: str) -> None:
    """`signature` is in hexadecimal digits. Raises OrderNotSigned."""
    if not keys.encrypted:
        return
    try:
        public_key = Ed25519PublicKey.from_public_bytes(keys.order_public_key)
        public_key.verify(bytes.fromhex(signature), _signed(keys.repository, order))
    except (InvalidSignature, ValueError) as error:
        raise OrderNotSigned(
            "an order is not signed with this repository's order key: check that scheduler and worker have"
            " key files of one repository, and who can write to Redis"
        ) from error


def _signed(repository: str, order: bytes) -> bytes:
    return binding("order", repository) + b"\0" + order
