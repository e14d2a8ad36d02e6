"""The connection against a scripted server, without TLS: reads, failures, deadlines, abort, close."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

from tests.nbd_peer import DISCONNECT, GREETING, Line, Peer, export_answer, reply
from workers.nbd import (
    Abort,
    Busy,
    Connection,
    ConnectionLost,
    Deadlines,
    ExportRefused,
    InvalidRead,
    NbdError,
    ProtocolViolation,
    Read,
    ReadFailed,
    Stalled,
    Tls,
    Unreachable,
    connect,
)

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
SIZE = 16 * MIB
EXPORT_NAME = "/1234?session_id=OpaqueRef:secret"
PATIENT = Deadlines(connect=10, handshake=10, read=10, close=10)
"""Never to be met; a busy machine must not fail a test."""


def dial(peer: Peer, deadlines: Deadlines = PATIENT, abort: Abort | None = None) -> Connection:
    return connect(peer.address, peer.port, EXPORT_NAME, Tls("none"), deadlines, abort=abort)


def buffer(length: int) -> memoryview:
    return memoryview(bytearray(length))


def opened(then: Callable[[Line], None], size: int = SIZE) -> Callable[[Line], None]:
    def script(line: Line) -> None:
        line.open_plain(size)
        then(line)

    return script


def nothing(line: Line) -> None:
    pass


def read_one(connection: Connection, length: int = 4 * KIB, offset: int = 0) -> bytes:
    [done] = connection.read([Read(offset, buffer(length))])
    return bytes(done.buffer)


# -- what works


def test_reads_come_back_into_their_buffers_whatever_the_order() -> None:
    contents = [bytes([n]) * (n * 512) for n in (1, 2, 3)]

    def serve(line: Line) -> None:
        first, second, third = line.requests(3)
        assert [request[1:] for request in (first, second, third)] == [(0, 512), (4096, 1024), (8192, 1536)]
        for (handle, _, _), data in zip(
            (third, first, second), (contents[2], contents[0], contents[1]), strict=True
        ):
            line.send(reply(handle, data))
        line.receive_to_end()

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        assert connection.size == SIZE
        requests = [Read(n * 4096, buffer(len(data))) for n, data in enumerate(contents)]
        done = list(connection.read(requests))
        assert done == [requests[2], requests[0], requests[1]]
        assert [bytes(request.buffer) for request in requests] == contents
    assert peer.received.startswith(b"\x00\x00\x00\x01IHAVEOPT\x00\x00\x00\x01")


def test_a_reply_in_drops() -> None:
    def serve(line: Line) -> None:
        [(handle, _, _)] = line.requests(1)
        for byte in reply(handle, b"abc"):
            line.send(bytes([byte]))

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        assert read_one(connection, 3) == b"abc"


def test_far_offsets_and_an_empty_disk() -> None:
    def serve(line: Line) -> None:
        [(handle, offset, length)] = line.requests(1)
        assert (offset, length) == (64 * TIB - 512, 512)
        line.send(reply(handle, b"z" * 512))

    with Peer(opened(serve, 64 * TIB)) as peer, dial(peer) as connection:
        assert read_one(connection, 512, 64 * TIB - 512) == b"z" * 512
    with Peer(opened(nothing, 0)) as peer, dial(peer) as connection:
        assert connection.size == 0
        assert list(connection.read([])) == []


def test_one_connection_serves_read_after_read() -> None:
    def serve(line: Line) -> None:
        for n in range(3):
            [(handle, _, length)] = line.requests(1)
            line.send(reply(handle, bytes([n]) * length))
        line.receive_to_end()

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        assert [read_one(connection)[0] for _ in range(3)] == [0, 1, 2]


def test_the_window_bounds_what_is_in_flight_and_what_is_pulled() -> None:
    pulled: list[int] = []

    def serve(line: Line) -> None:
        handles = [handle for handle, _, _ in line.requests(4)]
        assert len(pulled) == 5  # the fifth is at hand but was not sent
        for handle in handles[:2]:
            line.send(reply(handle, bytes(256 * KIB)))
        handles = handles[2:] + [handle for handle, _, _ in line.requests(2)]
        assert len(pulled) == 7
        line.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            line.socket.recv(1)
        line.socket.setblocking(True)
        for handle in handles:
            line.send(reply(handle, bytes(256 * KIB)))
        for handle, _, _ in line.requests(4):
            line.send(reply(handle, bytes(256 * KIB)))

    def requests() -> Iterator[Read]:
        for n in range(10):
            pulled.append(n)
            yield Read(n * 256 * KIB, buffer(256 * KIB))

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        assert len(list(connection.read(requests(), window=MIB))) == 10


def test_a_read_larger_than_the_window_travels_alone() -> None:
    def serve(line: Line) -> None:
        for _ in range(2):
            [(handle, _, length)] = line.requests(1)
            line.send(reply(handle, bytes(length)))

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        requests = [Read(0, buffer(2 * MIB)), Read(2 * MIB, buffer(3 * MIB))]
        assert list(connection.read(requests, window=MIB)) == requests


def test_thousands_of_small_reads_against_a_serial_server_never_lock_up() -> None:
    count = 3000
    disk = random.Random(1).randbytes(count * 512)

    def serve(line: Line) -> None:
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for _ in range(count):
            [(handle, offset, length)] = line.requests(1)
            line.send(reply(handle, disk[offset : offset + length]))

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        target = buffer(len(disk))
        requests = (Read(at, target[at : at + 512]) for at in range(0, len(disk), 512))
        assert sum(1 for _ in connection.read(requests)) == count
        assert target == disk


def test_ipv6() -> None:
    try:
        peer = Peer(opened(nothing), "::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with peer, dial(peer) as connection:
        assert connection.size == SIZE


def test_the_socket_is_kept_alive_and_sends_at_once() -> None:
    with Peer(opened(nothing)) as peer, dial(peer) as connection:
        sock = connection._plain._socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- opening fails


def reset_at_once(line: Line) -> None:
    line.reset()


def end_in_the_greeting(line: Line) -> None:
    line.send(GREETING[:9])


def end_after_export_name(line: Line) -> None:
    line.send(GREETING)
    line.receive(4)
    line.export_name()


def reset_after_export_name(line: Line) -> None:
    end_after_export_name(line)
    line.reset()


def end_after_the_greeting(line: Line) -> None:
    line.send(GREETING)


def end_in_the_answer(line: Line) -> None:
    end_after_export_name(line)
    line.send(export_answer(SIZE)[:133])


def answer_absurd_size(line: Line) -> None:
    end_after_export_name(line)
    line.send(export_answer(64 * TIB + 512))


def speak_http(line: Line) -> None:
    line.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "error", "advice"),
    [
        (nothing, Busy, "back-off"),
        (reset_at_once, Busy, "back-off"),
        (end_in_the_greeting, ConnectionLost, "retry-elsewhere"),
        (end_after_the_greeting, ExportRefused, "retry-elsewhere"),
        (end_after_export_name, ExportRefused, "retry-elsewhere"),
        (reset_after_export_name, ExportRefused, "retry-elsewhere"),
        (end_in_the_answer, ConnectionLost, "retry-elsewhere"),
        (answer_absurd_size, ProtocolViolation, "give-up"),
        (speak_http, ProtocolViolation, "give-up"),
    ],
)
def test_opening_fails(script: Callable[[Line], None], error: type[NbdError], advice: str) -> None:
    with Peer(script) as peer, pytest.raises(error) as caught:
        dial(peer)
    assert type(caught.value) is error
    assert caught.value.advice == advice
    assert f"127.0.0.1:{peer.port}" in str(caught.value)
    assert_hidden(caught.value)


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="refused") as caught:
            connect("127.0.0.1", unused.getsockname()[1], EXPORT_NAME, Tls("none"), PATIENT)
    assert caught.value.advice == "retry-elsewhere"
    assert_hidden(caught.value)


def test_an_unknown_name() -> None:
    with pytest.raises(Unreachable, match="looked up"):
        connect("no host.invalid", 1, EXPORT_NAME, Tls("none"), PATIENT)


def test_nobody_accepts() -> None:
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # fills the queue, so that the next SYN is dropped
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"did not accept the connection within 0\.2 s"):
            connect(*listener.getsockname(), EXPORT_NAME, Tls("none"), Deadlines(connect=0.2, handshake=10))
        assert 0.2 <= time.monotonic() - started < 8


# -- reading fails


def end_after_the_request(line: Line) -> None:
    line.requests(1)


def end_in_the_reply(line: Line) -> None:
    [(handle, _, _)] = line.requests(1)
    line.send(reply(handle)[:7])


def end_after_the_header(line: Line) -> None:
    [(handle, _, _)] = line.requests(1)
    line.send(reply(handle))


def end_in_the_data(line: Line) -> None:
    [(handle, _, _)] = line.requests(1)
    line.send(reply(handle, b"x" * 1000))


def reset_in_the_data(line: Line) -> None:
    end_in_the_data(line)
    line.reset()


def answer_wrong_magic(line: Line) -> None:
    [(handle, _, _)] = line.requests(1)
    line.send(b"\x67\x44\x66\x99" + reply(handle, bytes(4096))[4:])


def answer_wrong_handle(line: Line) -> None:
    [(handle, _, _)] = line.requests(1)
    line.send(reply(handle + 1, bytes(4096)))


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        (end_after_the_request, ConnectionLost, "1 reads unanswered"),
        (end_in_the_reply, ConnectionLost, "1 reads unanswered"),
        (end_after_the_header, ConnectionLost, "after 0 of 4096 bytes at byte 8192"),
        (end_in_the_data, ConnectionLost, "after 1000 of 4096 bytes at byte 8192"),
        (reset_in_the_data, ConnectionLost, "of 4096 bytes at byte 8192|unanswered"),
        (answer_wrong_magic, ProtocolViolation, "0x67446699"),
        (answer_wrong_handle, ProtocolViolation, "not asked for"),
    ],
)
def test_reading_fails(script: Callable[[Line], None], error: type[NbdError], text: str) -> None:
    with Peer(opened(script)) as peer, dial(peer) as connection:
        with pytest.raises(error, match=text) as caught:
            read_one(connection, 4096, 8192)
        assert caught.value.advice == ("give-up" if error is ProtocolViolation else "retry-elsewhere")
        assert_hidden(caught.value)
        with pytest.raises(RuntimeError):
            read_one(connection)
        assert connection.close() is False


def test_a_handle_is_good_for_one_reply() -> None:
    def answer_twice(line: Line) -> None:
        [(handle, _, _), _] = line.requests(2)
        line.send(reply(handle, bytes(512)) * 2)

    with Peer(opened(answer_twice)) as peer, dial(peer) as connection, pytest.raises(ProtocolViolation):
        list(connection.read([Read(0, buffer(512)), Read(512, buffer(512))]))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "EPERM"),
        (5, "EIO"),
        (12, "ENOMEM"),
        (22, "EINVAL"),
        (28, "ENOSPC"),
        (108, "ESHUTDOWN"),
        (4, "error 4"),
    ],
)
def test_an_error_reply(number: int, name: str) -> None:
    def refuse(line: Line) -> None:
        [(handle, _, _)] = line.requests(1)
        line.send(reply(handle, error=number))

    with Peer(opened(refuse)) as peer, dial(peer) as connection:
        with pytest.raises(ReadFailed, match=f"4096 bytes at byte 8192: {name}") as caught:
            read_one(connection, 4096, 8192)
        assert (caught.value.errno_name, caught.value.offset, caught.value.length) == (name, 8192, 4096)
        assert caught.value.advice == "retry-elsewhere"


@pytest.mark.parametrize(
    ("offset", "target"),
    [
        (0, memoryview(b"read-only")),
        (0, buffer(0)),
        (0, buffer(32 * MIB + 1)),
        (0, buffer(64)[::2]),
        (-512, buffer(512)),
        (SIZE - 511, buffer(512)),
        (SIZE, buffer(512)),
        (2**64, buffer(512)),
    ],
)
def test_reads_that_are_never_sent(offset: int, target: memoryview) -> None:
    def serve(line: Line) -> None:
        line.receive_to_end()

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        with pytest.raises(InvalidRead, match=r"at byte -?\d+"):
            list(connection.read([Read(offset, target)]))
        connection.close()
    assert len(peer.received) == 4 + 16 + len(EXPORT_NAME)


def test_the_longest_read_at_the_very_end() -> None:
    def serve(line: Line) -> None:
        [(handle, offset, length)] = line.requests(1)
        assert (offset, length) == (8 * MIB, 32 * MIB)
        line.send(reply(handle, bytes(length)))

    with Peer(opened(serve, 40 * MIB)) as peer, dial(peer) as connection:
        assert read_one(connection, 32 * MIB, 8 * MIB) == bytes(32 * MIB)


# -- deadlines


def stall_at_once(line: Line) -> None:
    line.stall()


def stall_after_export_name(line: Line) -> None:
    end_after_export_name(line)
    line.stall()


def trickle_the_greeting(line: Line) -> None:
    for byte in GREETING:
        line.send(bytes([byte]))
        line._released.wait(0.1)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (stall_at_once, "did not send its greeting within"),
        (stall_after_export_name, "did not open the disk"),
        (trickle_the_greeting, "did not send its greeting within"),
    ],
)
def test_stalled_while_opening(script: Callable[[Line], None], text: str) -> None:
    with Peer(script) as peer:
        started = time.monotonic()
        with pytest.raises(Stalled, match=text) as caught:
            dial(peer, Deadlines(handshake=0.3))
        assert 0.3 <= time.monotonic() - started < 8
    assert caught.value.advice == "retry-elsewhere"
    assert_hidden(caught.value)


def test_only_the_attaching_of_the_disk_is_waited_for_with_patience() -> None:
    """A host that says nothing at all is given up soon; one that has the name may take its time."""
    deadlines = Deadlines(greeting=0.2, handshake=1.0)
    with Peer(stall_at_once) as peer, pytest.raises(Stalled, match=r"greeting within 0\.2 s"):
        dial(peer, deadlines)
    with Peer(stall_after_export_name) as peer, pytest.raises(Stalled, match=r"within 1 s"):
        dial(peer, deadlines)


def test_deadlines_can_be_scaled() -> None:
    assert Deadlines(connect=10, read=60).scaled(0.1) == Deadlines(1, 15, 6, 1, 1)


def stall_after_the_request(line: Line) -> None:
    line.requests(1)
    line.stall()


def stall_in_the_data(line: Line) -> None:
    end_in_the_data(line)
    line.stall()


def trickle_the_data(line: Line) -> None:
    [(handle, _, _)] = line.requests(1)
    line.send(reply(handle))
    while not line._released.wait(0.02):
        line.send(b"x")


@pytest.mark.parametrize("script", [stall_after_the_request, stall_in_the_data, trickle_the_data])
def test_stalled_while_reading(script: Callable[[Line], None]) -> None:
    with Peer(opened(script)) as peer, dial(peer, Deadlines(read=0.3)) as connection:
        started = time.monotonic()
        with pytest.raises(Stalled, match=r"did not answer a read within 0\.3 s"):
            read_one(connection)
        assert 0.3 <= time.monotonic() - started < 8
        assert connection.close() is False


def test_our_own_slowness_is_not_held_against_the_server() -> None:
    def serve(line: Line) -> None:
        for handle, _, length in line.requests(2):
            line.send(reply(handle, bytes(length)))

    with Peer(opened(serve)) as peer, dial(peer, Deadlines(read=0.3)) as connection:
        for _ in connection.read([Read(0, buffer(512)), Read(512, buffer(512))]):
            time.sleep(0.4)  # longer than the deadline


# -- abort


def test_abort_wakes_a_blocked_read() -> None:
    connection: Connection

    def serve(line: Line) -> None:
        line.requests(1)
        connection.abort()
        line.receive_to_end()

    with Peer(opened(serve)) as peer:
        connection = dial(peer)
        with pytest.raises(ConnectionLost, match="aborted on our side"):
            read_one(connection)
        assert connection._plain._socket.fileno() == -1
        assert connection.close() is False


def test_abort_in_the_middle_of_much_data() -> None:
    connection: Connection

    def serve(line: Line) -> None:
        handles = [handle for handle, _, _ in line.requests(8)]
        for n, handle in enumerate(handles):
            if n == 4:
                connection.abort()
            line.send(reply(handle, bytes(MIB)))

    with Peer(opened(serve)) as peer:
        connection = dial(peer)
        with pytest.raises(ConnectionLost, match="aborted on our side"):
            list(connection.read([Read(n * MIB, buffer(MIB)) for n in range(8)]))
        assert connection._plain._socket.fileno() == -1


def test_abort_between_reads_closes_at_once_and_for_good() -> None:
    ended = threading.Event()

    def serve(line: Line) -> None:
        line.receive_to_end()
        ended.set()

    with Peer(opened(serve)) as peer:
        connection = dial(peer)
        connection.abort()
        assert ended.wait(5)
        assert connection._plain._socket.fileno() == -1
        with pytest.raises(ConnectionLost, match="aborted"):
            read_one(connection)
        assert connection.close() is False
        connection.abort()


@pytest.mark.parametrize("when", ["greeting", "export"])
def test_abort_while_opening(when: str) -> None:
    abort = Abort()

    def serve(line: Line) -> None:
        if when == "export":
            end_after_export_name(line)
        abort.throw()
        line.receive_to_end()

    with Peer(serve) as peer, pytest.raises(ConnectionLost, match="aborted on our side") as caught:
        dial(peer, abort=abort)
    assert_hidden(caught.value)


@pytest.mark.parametrize("step", [1, 2])
def test_who_was_paused_is_asked_before_the_dial_and_before_the_name_is_sent(step: int) -> None:
    """The first question comes before the dial, the second after the greeting."""
    abort = Abort()
    asked: list[int] = []

    def before_step() -> None:
        asked.append(1)
        if len(asked) == step:
            abort.throw()

    def serve(line: Line) -> None:
        line.send(GREETING)
        line.receive_to_end()

    with Peer(serve) as peer, pytest.raises(ConnectionLost, match="aborted on our side"):
        connect(
            peer.address, peer.port, EXPORT_NAME, Tls("none"), PATIENT, abort=abort, before_step=before_step
        )
    assert len(asked) == step
    assert not peer.received


def test_abort_before_opening_sends_nothing() -> None:
    abort = Abort()
    abort.throw()
    with Peer(stall_at_once) as peer, pytest.raises(ConnectionLost, match="aborted on our side"):
        dial(peer, abort=abort)
    assert not peer.received


# -- close


def test_close_says_goodbye_and_waits_for_the_end() -> None:
    def serve(line: Line) -> None:
        line.receive_to_end()

    with Peer(opened(serve)) as peer:
        connection = dial(peer)
        assert connection.close() is True
        assert connection.close() is True
    assert peer.received.endswith(EXPORT_NAME.encode() + DISCONNECT)


def test_close_drops_replies_that_nobody_took() -> None:
    def serve(line: Line) -> None:
        for handle, _, length in line.requests(8):
            line.send(reply(handle, bytes(length)))
        line.receive_to_end()

    with Peer(opened(serve)) as peer, dial(peer) as connection:
        reads = connection.read([Read(n * MIB, buffer(MIB)) for n in range(8)])
        next(reads)
        reads.close()  # type: ignore[attr-defined]  # it is a generator
        with pytest.raises(RuntimeError, match="earlier read"):
            read_one(connection)
        assert connection.close() is True
    assert peer.received.endswith(DISCONNECT)


@pytest.mark.parametrize("flood", [False, True])
def test_close_does_not_wait_for_ever(flood: bool) -> None:
    def serve(line: Line) -> None:
        line.receive(28)
        while flood:
            line.send(bytes(65536))
        line.stall()

    with Peer(opened(serve)) as peer:
        connection = dial(peer, Deadlines(close=0.3))
        started = time.monotonic()
        assert connection.close() is False
        assert 0.3 <= time.monotonic() - started < 8
        assert connection._plain._socket.fileno() == -1


def test_an_error_inside_the_with_block_still_closes() -> None:
    with Peer(opened(lambda line: line.receive_to_end())) as peer:
        with pytest.raises(KeyError), dial(peer) as connection:
            raise KeyError
        assert connection._plain._socket.fileno() == -1
    assert peer.received.endswith(DISCONNECT)


def assert_hidden(error: BaseException) -> None:
    """Neither the text nor a traceback that shows variables has the export name in it."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [
            frame
            for frame, _ in traceback.walk_tb(seen.__traceback__)
            if "workers" in frame.f_code.co_filename
        ]
        shown = f"{seen} {seen!r}" + "".join(repr(list(frame.f_locals.values())) for frame in frames)
        assert "secret" not in shown
        seen = seen.__cause__ or seen.__context__


def test_no_socket_to_be_had_is_one_line() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(Unreachable, match=r"too many open files"):
            connect("127.0.0.1", 10809, EXPORT_NAME, Tls("none"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_address_that_cannot_be_one_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="cannot be looked up"):
        connect("a" * 64 + ".example", 10809, EXPORT_NAME, Tls("none"))
