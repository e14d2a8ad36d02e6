"""The transmission phase: requests are served strictly in order, and whatever fails ends the connection."""

from __future__ import annotations

import contextlib

from infra.simulator import nbd_wire as wire
from infra.simulator.faults import Fault
from infra.simulator.listener import Connection
from infra.simulator.log import ConnectionEntry
from infra.simulator.patterns import BLOCK_SIZE
from infra.simulator.state import State
from infra.simulator.vdi_content import Content

PIECE = 512 << 10
"""The daemon's own buffer: a long read comes in pieces of this size."""


class Ended(Exception):
    """The connection ends; `outcome` goes into the log."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def serve_reads(state: State, connection: Connection, entry: ConnectionEntry, content: Content) -> str:
    """Until the client disconnects: returns the outcome. Raises Ended, OSError."""
    while True:
        header = connection.receive(wire.REQUEST.size)
        if header is None:
            return "closed-by-client"
        request = wire.NbdRequest(*wire.REQUEST.unpack(header))
        if request.magic != wire.REQUEST_MAGIC:
            raise Ended("bad-magic")
        if request.type == wire.DISCONNECT:
            if late := state.faults.nbd({"late_end"}, entry.host, entry.vdi):
                with state.lock:
                    state.pause(late.seconds)
            return "disconnected"
        if request.type != wire.READ:
            error = wire.EPERM if request.type == wire.WRITE else wire.EINVAL
            _error(connection, request, error)
        sector = state.spec.sector_size
        if request.offset % sector or request.length % sector:
            _error(connection, request, wire.EINVAL)
        _read(state, connection, entry, content, request)


def _read(
    state: State, connection: Connection, entry: ConnectionEntry, content: Content, request: wire.NbdRequest
) -> None:
    fault = _fault(state, entry, request)
    magic, handle = wire.REPLY_MAGIC, request.handle
    if fault is not None:
        if fault.name == "error_reply":
            _error(connection, request, fault.errno)
        if fault.name == "slow":
            with state.lock:
                state.pause(fault.seconds)
        magic ^= fault.name == "wrong_magic"
        handle ^= fault.name == "wrong_handle"
    connection.socket.sendall(wire.reply(handle, magic=magic))
    if request.length >= 1 << 31:
        raise Ended("length-out-of-range")
    left = _bytes_before_fault(fault, entry, request)
    for offset in range(request.offset, request.offset + request.length, PIECE):
        length = min(PIECE, request.offset + request.length - offset)
        if offset + length > content.size:
            raise Ended("out-of-range")
        if left is not None and length > left:
            _strike(connection, content.read(offset, max(left, 0)), fault)
        connection.socket.sendall(content.read(offset, length))
        left = None if left is None else left - length
    state.log.read(entry, request.offset, request.length)


def _fault(state: State, entry: ConnectionEntry, request: wire.NbdRequest) -> Fault | None:
    first = request.offset // BLOCK_SIZE
    last = -(-(request.offset + request.length) // BLOCK_SIZE)
    return state.faults.nbd_read(entry.host, entry.vdi or "", range(first, last), entry.bytes, request.length)


def _bytes_before_fault(fault: Fault | None, entry: ConnectionEntry, request: wire.NbdRequest) -> int | None:
    """How much of this read's data is sent before the fault strikes; None: all."""
    if fault is None:
        return None
    if fault.name == "io_error_at_block":
        start = request.offset if fault.block is None else fault.block * BLOCK_SIZE
        return max(0, start - request.offset)
    if fault.name in {"close_after_bytes", "reset", "stall"}:
        return fault.bytes - entry.bytes
    return None


def _strike(connection: Connection, partial: bytearray, fault: Fault | None) -> None:
    assert fault is not None
    connection.socket.sendall(partial)
    if fault.name == "stall":
        wait_for_client_to_go(connection)
    if fault.name == "reset":
        connection.reset()
        raise Ended("reset")
    raise Ended(f"fault-{fault.name}")


def wait_for_client_to_go(connection: Connection) -> None:
    """For good: whatever it still sends is not answered."""
    with contextlib.suppress(OSError):
        while connection.socket.recv(65536):
            pass


def _error(connection: Connection, request: wire.NbdRequest, error: int) -> None:
    connection.socket.sendall(wire.reply(request.handle, error))
    raise Ended(f"error-{error}")
