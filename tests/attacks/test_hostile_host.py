"""A host that answers as no XAPI would: each call ends at its deadline, or with one line."""

from __future__ import annotations

import itertools
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from workers.settings import PoolSettings
from workers.xenapi import AnswerLost, CallTimedOut, Session, XapiError
from workers.xenapi.connection import Server
from workers.xenapi.download import download
from workers.xenapi.errors import BadAnswer

DEADLINE = 0.6
LATE = 3.0
"""Seconds that a busy machine may take more."""

OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def host(answer: Callable[[], Iterator[bytes]], pause: float) -> Iterator[str]:
    """Takes a request and sends the pieces of its answer, `pause` seconds after each other."""
    stop = threading.Event()
    threads = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 18)
            for piece in answer():
                connection.sendall(piece)
                if stop.wait(pause) or stop.is_set():
                    return
            stop.wait()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                thread = threading.Thread(target=serve, args=(connection,))
                thread.start()
                threads.append(thread)

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def settings(url: str, timeout: float = DEADLINE) -> PoolSettings:
    return PoolSettings(url=url, username="backup", password="p", timeout=timeout)


def for_ever(first: bytes, again: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain([first], itertools.repeat(again))


SLOW = {
    "status": for_ever(b"HTTP/1.1 ", b"2"),
    "header": for_ever(OK + b"X-Long: ", b"x"),
    "headers": for_ever(OK, b"X: y\r\n"),
    "continue": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": for_ever(OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "endless body": for_ever(ENDLESS, b"1\r\n \r\n"),
    "chunk size": for_ever(ENDLESS, b"0"),
    "refusal": for_ever(b"HTTP/1.1 500 Broken\r\nContent-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("what", SLOW)
def test_what_comes_in_drops_ends_at_the_calls_deadline(what: str) -> None:
    with host(SLOW[what], pause=0.02) as url:
        began = time.monotonic()
        with pytest.raises(CallTimedOut, match=r"login_with_password: no answer within 0\.6 s"):
            Session.login("lab", settings(url))
        assert DEADLINE <= time.monotonic() - began < DEADLINE + LATE


@pytest.mark.parametrize("what", [each for each in SLOW if each != "refusal"])
def test_so_does_a_download(what: str) -> None:
    with host(SLOW[what], pause=0.02) as url:
        server = Server.from_settings("lab", settings(url))
        began = time.monotonic()
        with pytest.raises((CallTimedOut, BadAnswer)) as ended:
            download(server, "/export_metadata", "secret", 60, 1 << 20, DEADLINE)
        assert time.monotonic() - began < DEADLINE + LATE
        if isinstance(ended.value, BadAnswer):
            assert "does not say how long it is" in str(ended.value)


def test_a_request_that_is_taken_in_drops_ends_at_the_deadline() -> None:
    """At this pace all of it would take a minute, and each piece a moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        stop = threading.Event()

        def sip() -> None:
            connection, _ = server.accept()
            with connection:
                while not stop.wait(0.05):
                    connection.recv(1 << 18)

        thread = threading.Thread(target=sip)
        thread.start()
        huge = settings(url).model_copy(update={"username": "u" * (64 << 20)})
        began = time.monotonic()
        try:
            with pytest.raises(CallTimedOut):
                Session.login("lab", huge)
            assert time.monotonic() - began < DEADLINE + LATE
        finally:
            stop.set()
            thread.join()


def test_an_answer_without_end_costs_bounded_memory() -> None:
    """As fast as the loopback: the size ends it before the deadline does."""
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with host(for_ever(ENDLESS, piece), pause=0) as url:
        tracemalloc.start()
        try:
            with pytest.raises(BadAnswer) as refused:
                Session.login("lab", settings(url, timeout=60))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert str(refused.value) == (
        "pool lab: session.login_with_password: the answer is longer than the 256 MiB we take"
    )
    assert peak < 32 << 20


def test_a_download_without_end_is_not_taken() -> None:
    body = OK + b"Content-Length: 2000000\r\n\r\n"
    with host(for_ever(body, b"x" * 65536), pause=0) as url:
        server = Server.from_settings("lab", settings(url))
        with pytest.raises(BadAnswer, match="2000000 bytes are more than the 1000 that we take"):
            download(server, "/export_metadata", "secret", 5, 1000, 5)
    with host(for_ever(OK, b"X-Padding: " + b"x" * 60000 + b"\r\n"), pause=0) as url:
        server = Server.from_settings("lab", settings(url))
        with pytest.raises(BadAnswer, match="longer than the 1000 bytes that we take"):
            download(server, "/export_metadata", "secret", 5, 1000, 5)


def failure(*description: str) -> bytes:
    members = "".join(f"<value><string>{part}</string></value>" for part in description)
    body = (
        "<?xml version='1.0'?><methodResponse><params><param><value><struct>"
        "<member><name>Status</name><value><string>Failure</string></value></member>"
        f"<member><name>ErrorDescription</name><value><array><data>{members}</data></array></value></member>"
        "</struct></value></param></params></methodResponse>"
    ).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "master",
    [
        "",
        " ",
        "[",
        "]",
        "[::1",
        "::1]:443",
        "xen1:",
        "xen1:0",
        "xen1:70000",
        "xen1:99999999999999999999",
        "xen1:4\u06634",
        "http://xen1",
        "xen1/path",
        "user@xen1",
        "xen1 xen2",
        "xen1&#10;xen2",
        "xen\u00e4",
        "..",
        "-",
        "x" * 100_000,
        "OpaqueRef:1",
    ],
)
def test_a_master_that_is_no_address_is_one_line(master: str) -> None:
    with (
        host(lambda: iter([failure("HOST_IS_SLAVE", master)]), pause=0) as url,
        pytest.raises(XapiError) as said,
    ):
        Session.login("lab", settings(url))
    line = str(said.value)
    assert line.isprintable()
    assert len(line) < 500


@pytest.mark.parametrize("description", [("X" * 1_000_000,), ("VDI_IN_USE", *["y" * 10_000] * 1000)])
def test_a_failure_however_long_is_one_short_line(description: tuple[str, ...]) -> None:
    with host(lambda: iter([failure(*description)]), pause=0) as url, pytest.raises(XapiError) as said:
        Session.login("lab", settings(url))
    assert len(str(said.value)) < 3000
    assert not isinstance(said.value, AnswerLost)
