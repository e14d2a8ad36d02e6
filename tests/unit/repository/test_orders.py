"""Orders: signed by the scheduler's key, bound to the repository."""

from __future__ import annotations

import pytest

from tests.repository_machine import ENCRYPTED, PLAIN, secret
from workers.repository import OrderNotSigned, PrivateKeys, check_order, sign_order


def test_an_order_is_believed_only_from_its_repositorys_scheduler() -> None:
    scheduler, worker = ENCRYPTED.metadata, ENCRYPTED.metadata.worker
    signature = sign_order(scheduler, b"read it")
    assert len(signature) == 64
    check_order(worker, b"read it", signature.hex())
    stranger = PrivateKeys.from_masters(ENCRYPTED.repository, [secret("another")]).metadata
    elsewhere = PrivateKeys.from_masters(PLAIN.repository[:-1] + "0", [secret("master")]).metadata
    for order, signed in (
        (b"read all", signature),
        (b"read it", sign_order(scheduler, b"read all")),
        (b"read it", sign_order(stranger, b"read it")),
        (b"read it", sign_order(elsewhere, b"read it")),
        (b"read it", bytes(64)),
        (b"read it", b""),
        (b"read it", signature[:-1]),
    ):
        with pytest.raises(OrderNotSigned, match="not signed"):
            check_order(worker, order, signed.hex())
    with pytest.raises(OrderNotSigned, match="not signed"):
        check_order(worker, b"read it", "no digits")


def test_orders_of_an_unencrypted_repository_have_no_signature() -> None:
    assert sign_order(PLAIN.metadata, b"read it") == bytes(64)
    check_order(PLAIN.metadata.worker, b"read it", "")
