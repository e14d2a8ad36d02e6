"""What really goes over the wire to an S3 store, and what we make of stores that misbehave.

The store here is a small one of our own on loopback, which does the wrong thing on demand.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from workers.errors import CbtfleetError, ConfigurationError
from workers.repository.s3_store import Patience, S3Store
from workers.repository.store import (
    AccessDenied,
    BucketMissing,
    ClockWrong,
    ConditionalPutRefused,
    CredentialsMissing,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    ObjectTruncated,
    StoreError,
    StoreFull,
    StoreUnavailable,
    honours_put_if_absent,
)
from workers.settings import RepositorySettings

QUICK = Patience(connect=10, read=10, tries=5, first_tries=3, pause=0.001)
HASTY = replace(QUICK, read=0.3)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Double:
    """An S3 server's state. `faults` are used up one a request; one that returns False lets it pass."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Callable[[Handler, Request], bool | None]] = field(default_factory=list)
    knows_if_none_match: bool = True
    pause: float = 0
    """Seconds between two pieces of 256 KiB of a body: a slow line."""
    hanging: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: Double

    def do_any(self) -> None:
        body = self.read_body(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        self.double.requests.append(request)
        if self.double.faults and self.double.faults.pop(0)(self, request) is not False:
            return
        self.serve(request)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_any

    def read_body(self, length: int) -> bytes:
        body = b""
        while len(body) < length:
            if self.double.pause:
                time.sleep(self.double.pause)
            body += self.rfile.read(min(length - len(body), 256 << 10))
        return body

    def serve(self, request: Request) -> None:
        objects, path = self.double.objects, request.path.partition("?")[0]
        if request.method == "PUT":
            if "if-none-match" in request.headers and self.double.knows_if_none_match and path in objects:
                return self.refuse(412, "PreconditionFailed")
            objects[path] = request.body
            return self.answer(200)
        if request.method == "DELETE":
            objects.pop(path, None)
            return self.answer(204)
        if path not in objects:
            return self.refuse(404, "NoSuchKey")
        found = objects[path]
        if "range" in request.headers:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"]).groups()  # type: ignore[union-attr]
            return self.answer(206, found[int(first) : int(last) + 1])
        return self.answer(200, found)

    def answer(self, status: int, body: bytes = b"", claimed: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(
            status, f"<Error><Code>{code}</Code><Message>the store's words</Message></Error>".encode()
        )

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests want."""


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    state = Double()
    with served(state) as state.port:
        yield state
        state.hanging.set()


@contextmanager
def served(double: Double, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    handler = type("BoundHandler", (Handler,), {"double": double})
    with Server(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def tls_endpoint(double: Double, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The double behind TLS, and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "store.pem").write_bytes(pem)
    (tmp_path / "both.pem").write_bytes(secret + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with served(double, context) as port:
        yield f"https://127.0.0.1:{port}", tmp_path / "store.pem"


@pytest.fixture
def store(double: Double) -> Iterator[S3Store]:
    opened = open_quick(f"http://127.0.0.1:{double.port}")
    yield opened
    opened.close()


@pytest.fixture
def hasty_store(double: Double) -> Iterator[S3Store]:
    opened = open_quick(f"http://127.0.0.1:{double.port}", HASTY)
    yield opened
    opened.close()


def open_quick(endpoint: str, patience: Patience = QUICK) -> S3Store:
    return S3Store.open(RepositorySettings(url="s3://backups/prod", endpoint_url=endpoint), patience=patience)


def refuses(status: int, code: str) -> Callable[[Handler, Request], None]:
    return lambda handler, request: handler.refuse(status, code)


def hangs(handler: Handler, request: Request) -> None:
    handler.double.hanging.wait(10)
    handler.close_connection = True


def hangs_up(handler: Handler, request: Request) -> None:
    handler.close_connection = True


def cuts_off(handler: Handler, request: Request) -> None:
    body = handler.double.objects[request.path]
    handler.answer(200, body[: len(body) // 2], claimed=len(body))
    handler.close_connection = True


def does_it_and_loses_the_answer(handler: Handler, request: Request) -> None:
    handler.double.objects.setdefault(request.path, request.body)
    handler.close_connection = True


def lets_another_win(handler: Handler, request: Request) -> None:
    handler.double.objects[request.path] = request.body[::-1]
    handler.refuse(409, "ConditionalRequestConflict")


# What is sent


def test_a_put_is_plain_and_signed_with_its_sha256(store: S3Store, double: Double) -> None:
    data = b"some bytes" * 100_000
    store.put_if_absent("packs/a", memoryview(data))
    (request,) = double.requests
    assert (request.method, request.path, request.body) == ("PUT", "/backups/prod/packs/a", data)
    assert request.headers["if-none-match"] == "*"
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()
    assert request.headers["content-length"] == str(len(data))
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    newer = [
        name
        for name in request.headers
        if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))
    ]
    assert newer == []
    assert "expect" not in request.headers
    assert "content-md5" not in request.headers
    assert "transfer-encoding" not in request.headers
    assert "aws-chunked" not in request.headers.get("content-encoding", "")


def test_gets_and_deletes_ask_for_no_checksums(store: S3Store, double: Double) -> None:
    double.objects["/backups/prod/a"] = b"0123456789"
    assert store.get("a", 1 << 20) == b"0123456789"
    assert store.get_range("a", 2, 3) == b"234"
    store.delete("a")
    assert [request.headers.get("range") for request in double.requests] == [None, "bytes=2-4", None]
    assert not any("checksum" in name for request in double.requests for name in request.headers)


def test_payloads_are_signed_over_https_too(double: Double, tls_endpoint: tuple[str, Path]) -> None:
    endpoint, certificate = tls_endpoint
    settings = RepositorySettings(url="s3://backups/prod", endpoint_url=endpoint, ca_file=certificate)
    store = S3Store.open(settings, patience=QUICK)
    store.put_if_absent("a", b"some bytes")
    store.close()
    (request,) = double.requests
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(b"some bytes").hexdigest()
    assert not any("checksum" in name for name in request.headers)


def test_a_certificate_that_is_not_trusted_is_said_at_once(
    double: Double, tls_endpoint: tuple[str, Path], tmp_path: Path
) -> None:
    store = open_quick(tls_endpoint[0])
    with pytest.raises(
        StoreUnavailable, match=r"^the TLS certificate of bucket backups .* set repository\.ca_file"
    ):
        store.get("a", 1 << 20)
    store.close()
    assert double.requests == []
    with pytest.raises(ConfigurationError, match=r"repository\.ca_file: no file .*/absent"):
        S3Store.open(
            RepositorySettings(url="s3://b", endpoint_url=tls_endpoint[0], ca_file=tmp_path / "absent")
        )


@pytest.mark.parametrize(
    ("endpoint", "addressing", "style"),
    [
        ("http://s3.example", "auto", "path"),
        ("http://s3.example", "virtual", "virtual"),
        ("http://s3.example", "path", "path"),
        (None, "auto", "virtual"),
        (None, "path", "path"),
    ],
)
def test_addressing(
    endpoint: str | None, addressing: str, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    settings = RepositorySettings(url="s3://backups/p", endpoint_url=endpoint, addressing=addressing)  # type: ignore[arg-type]
    store = S3Store.open(settings)
    url = store._client.generate_presigned_url("get_object", Params={"Bucket": "backups", "Key": "k"})
    host, path = re.match(r"https?://([^/]+)/([^?]*)", url).groups()  # type: ignore[union-attr]
    assert (host.startswith("backups."), path) == (
        (True, "k") if style == "virtual" else (False, "backups/k")
    )
    assert store._client.meta.region_name == "us-east-1"
    store.close()


def test_a_put_of_a_pack_copies_little(double: Double) -> None:
    """Of 33 MiB and a TLS- and HTTP-stack, the peak grows by far less than another 33 MiB."""
    program = """if True:
        import resource, sys
        from workers.repository.s3_store import S3Store
        from workers.settings import RepositorySettings
        store = S3Store.open(RepositorySettings(url="s3://b/p", endpoint_url=sys.argv[1]))
        data = bytearray(33 << 20)
        store.put_if_absent("first", b"so that all is loaded")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        store.put_if_absent("big", memoryview(data))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    arguments = [sys.executable, "-c", program, f"http://127.0.0.1:{double.port}"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 << 10, "KiB"
    assert len(double.objects["/b/p/big"]) == 33 << 20


def test_a_slow_line_gets_its_time(double: Double) -> None:
    """An upload may take longer than any time limit, as long as it moves."""
    double.pause = 0.04
    settings = RepositorySettings(url="s3://b/p", endpoint_url=f"http://127.0.0.1:{double.port}")
    store = S3Store.open(settings, patience=Patience(connect=1, read=10, tries=1, first_tries=1))
    store.put_if_absent("big", bytes(16 << 20))
    store.close()
    assert len(double.objects["/b/p/big"]) == 16 << 20


# Stores that ignore or refuse If-None-Match


def test_a_store_that_overwrites_is_recognised(store: S3Store, double: Double) -> None:
    assert honours_put_if_absent(store)
    double.knows_if_none_match = False
    assert not honours_put_if_absent(store)
    assert double.objects == {}


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_store_that_refuses_the_header_is_named(
    store: S3Store, double: Double, status: int, code: str
) -> None:
    double.faults = [refuses(status, code)]
    with pytest.raises(ConditionalPutRefused, match=rf"bucket backups .* \({status} {code}\).*another store"):
        honours_put_if_absent(store)
    assert double.objects == {}


# Passing trouble


@pytest.mark.parametrize(
    "fault",
    [
        refuses(503, "SlowDown"),
        refuses(500, "InternalError"),
        refuses(429, "TooManyRequests"),
        refuses(400, "RequestTimeout"),
        refuses(400, "XAmzContentSHA256Mismatch"),
        refuses(409, "ConditionalRequestConflict"),
        hangs_up,
    ],
)
def test_passing_trouble_is_tried_again(store: S3Store, double: Double, fault: Callable[..., None]) -> None:
    store.put_if_absent("before", b"the store has answered once")
    double.faults = [fault] * 3
    store.put_if_absent("a", b"some bytes")
    assert len(double.requests) == 5
    assert double.objects["/backups/prod/a"] == b"some bytes"


def test_a_silent_store_is_left_and_asked_again(hasty_store: S3Store, double: Double) -> None:
    double.objects["/backups/prod/a"] = b"0123456789"
    double.faults = [hangs]
    assert hasty_store.get("a", 1 << 20) == b"0123456789"
    assert len(double.requests) >= 2


def test_lasting_trouble_ends_with_one_line(store: S3Store, double: Double) -> None:
    double.faults = [refuses(503, "SlowDown")] * 5
    with pytest.raises(StoreUnavailable, match=r"^bucket backups at http://127.* \(503 SlowDown\), 5 tries$"):
        store.put_if_absent("a", b"1")


def test_lasting_silence_ends_with_one_line(hasty_store: S3Store, double: Double) -> None:
    double.faults = [hangs] * 5
    with pytest.raises(StoreUnavailable, match=r"^cannot reach bucket .*: timed out \(get a, 3 tries\)$"):
        hasty_store.get("a", 1 << 20)


def test_an_answer_cut_off_is_asked_for_again(store: S3Store, double: Double) -> None:
    double.objects["/backups/prod/a"] = bytes(100_000)
    double.faults = [cuts_off, cuts_off]
    assert store.get("a", 1 << 20) == bytes(100_000)
    double.faults = [cuts_off] * 5
    with pytest.raises(StoreUnavailable, match="cannot reach"):
        store.get("a", 1 << 20)


def test_a_short_range_is_a_truncated_object(store: S3Store, double: Double) -> None:
    double.objects["/backups/prod/a"] = b"0123456789"
    with pytest.raises(ObjectTruncated, match="a is truncated: it should have at least 15 bytes, it has 10"):
        store.get_range("a", 5, 10)


def test_a_store_that_ignores_ranges_is_named(store: S3Store, double: Double) -> None:
    double.objects["/backups/prod/a"] = b"0123456789"
    double.faults = [lambda handler, request: handler.answer(200, b"0123456789")]
    with pytest.raises(StoreError, match="ignores the Range header"):
        store.get_range("a", 5, 2)


def sends_a_gigabyte(sent: SimpleQueue[int], length: bool = True) -> Callable[..., None]:
    """An answer that goes on until nobody takes it any more; `sent` then gets how much of it went out."""

    def fault(handler: Handler, request: Request) -> None:
        handler.send_response(200)
        if length:
            handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        handler.close_connection = True
        count = 0
        with suppress(OSError):
            while count < 1 << 30:
                count += handler.connection.send(bytes(1 << 20))
        sent.put(count)

    return fault


@pytest.mark.parametrize("range_", [False, True], ids=["whole", "range that is ignored"])
def test_what_is_too_large_is_left_where_it_is(store: S3Store, double: Double, range_: bool) -> None:
    """A planted object of 1 GiB costs what the sockets' buffers hold."""
    sent: SimpleQueue[int] = SimpleQueue()
    double.faults = [sends_a_gigabyte(sent)]
    if range_:
        with pytest.raises(StoreError, match="ignores the Range header"):
            store.get_range("a", 0, 100)
    else:
        with pytest.raises(ObjectTooLarge, match=f"a has {1 << 30} bytes, 1000 at most"):
            store.get("a", 1000)
    assert sent.get(timeout=30) < 32 << 20
    double.objects["/backups/prod/a"] = b"0123456789"
    assert store.get("a", 1000) == b"0123456789"


def test_a_store_that_does_not_say_how_long_an_object_is_is_named(store: S3Store, double: Double) -> None:
    double.faults = [sends_a_gigabyte(SimpleQueue(), length=False)]
    with pytest.raises(StoreError, match="does not say how long its objects are"):
        store.get("a", 1000)


# Put-if-absent and lost answers


def test_a_put_that_succeeded_unheard_is_a_success(store: S3Store, double: Double) -> None:
    double.faults = [does_it_and_loses_the_answer]
    store.put_if_absent("a", memoryview(b"mine" * 1000))
    assert [request.method for request in double.requests] == ["PUT", "PUT", "HEAD", "GET"]
    assert double.objects["/backups/prod/a"] == b"mine" * 1000


def test_who_may_not_read_what_it_put_is_told_that_the_key_is_taken(store: S3Store, double: Double) -> None:
    """A worker's credentials: it knows a pack by its name, which is its hash, and may not read it back."""
    double.faults = [
        does_it_and_loses_the_answer,
        refuses(412, "PreconditionFailed"),
        refuses(403, ""),
        refuses(403, "AccessDenied"),
    ]
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"mine")
    assert double.objects["/backups/prod/a"] == b"mine"


@pytest.mark.parametrize("others", [b"another one's", b"enim"])
def test_a_retried_put_that_lost_to_another_says_so(store: S3Store, double: Double, others: bytes) -> None:
    double.objects["/backups/prod/a"] = others
    double.faults = [refuses(503, "SlowDown")]
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"mine")
    assert double.objects["/backups/prod/a"] == others


def test_a_conflict_that_another_won_says_so(store: S3Store, double: Double) -> None:
    double.faults = [lets_another_win]
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"mine")
    assert double.objects["/backups/prod/a"] == b"enim"


def test_a_first_put_that_finds_an_equal_object_is_no_success(store: S3Store, double: Double) -> None:
    double.objects["/backups/prod/a"] = b"mine"
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"mine")


# Refusals, each one line


@pytest.mark.parametrize(
    ("status", "code", "expected", "says"),
    [
        (404, "NoSuchBucket", BucketMissing, "does not exist; create it"),
        (404, "NoSuchKey", ObjectMissing, "object a is not in the store"),
        (403, "AccessDenied", AccessDenied, r"denies get a \(403 AccessDenied\)"),
        (403, "InvalidAccessKeyId", AccessDenied, "does not accept the credentials"),
        (403, "SignatureDoesNotMatch", AccessDenied, "does not accept the credentials"),
        (403, "RequestTimeTooSkewed", ClockWrong, "this machine's clock is wrong; set the time"),
        (507, "XMinioStorageFull", StoreFull, "no space left"),
        (400, "AuthorizationHeaderMalformed", StoreError, "set repository.region"),
        (418, "Teapot", StoreError, "refuses get a .*the store's words"),
    ],
)
def test_refusals(
    store: S3Store, double: Double, status: int, code: str, expected: type[CbtfleetError], says: str
) -> None:
    double.faults = [refuses(status, code)] * 3
    with pytest.raises(expected, match=says) as caught:
        store.get("a", 1 << 20)
    assert type(caught.value) is expected
    assert "\n" not in str(caught.value)
    assert "wJalr" not in str(caught.value)


def test_a_refused_head_is_explained(store: S3Store, double: Double) -> None:
    """The answer to HEAD has no body, so it cannot say what is wrong; the answer to GET does."""
    double.faults = [refuses(403, ""), refuses(403, "SignatureDoesNotMatch")]
    with pytest.raises(AccessDenied, match=r"does not accept the credentials \(SignatureDoesNotMatch\)"):
        store.head("a")
    double.faults = [refuses(403, ""), refuses(403, "AccessDenied")]
    with pytest.raises(AccessDenied, match=r"denies head a \(403 AccessDenied\)"):
        store.head("a")
    double.objects["/backups/prod/a"] = b"0123456789"
    double.faults = [refuses(403, "")]
    with pytest.raises(AccessDenied, match=r"denies head a \(403\)"):
        store.head("a")


def test_a_server_that_is_no_s3_is_named(store: S3Store, double: Double) -> None:
    double.faults = [lambda handler, request: handler.answer(200, b"<html>welcome")] * 9
    with pytest.raises(
        StoreError, match=r"list everything \(500\).* no S3 server, correct repository\.endpoint_url"
    ):
        list(store.list(""))


@pytest.mark.parametrize(
    ("pages", "says"),
    [
        ([("<IsTruncated>true</IsTruncated>", ["a"])], "before its end"),
        ([("<IsTruncated>false</IsTruncated>", ["b", "a"])], "out of order"),
        (
            [("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>", ["a"])] * 2,
            "out of order",
        ),
        (
            [("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>", [])] * 2,
            "before its end",
        ),
    ],
)
def test_a_listing_is_complete_or_raises(
    store: S3Store, double: Double, pages: list[tuple[str, list[str]]], says: str
) -> None:
    def page(head: str, keys: list[str]) -> Callable[[Handler, Request], None]:
        items = "".join(f"<Contents><Key>prod/{key}</Key><Size>1</Size></Contents>" for key in keys)
        body = f"<ListBucketResult>{head}{items}</ListBucketResult>".encode()
        return lambda handler, request: handler.answer(200, body)

    double.faults = [page(*one) for one in pages]
    with pytest.raises(StoreError, match=says):
        list(store.list(""))


def test_a_listing_goes_on_over_pages(store: S3Store, double: Double) -> None:
    def page(handler: Handler, request: Request) -> None:
        token = re.search(r"continuation-token=t(\d)", request.path)
        number = int(token[1]) if token else 0
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>t{number + 1}</NextContinuationToken>"
        items = "".join(
            f"<Contents><Key>prod/p/{number}{letter}</Key><Size>{number}</Size></Contents>"
            for letter in "abc"
        )
        body = f"<ListBucketResult>{more if number < 3 else ''}{items}</ListBucketResult>"
        handler.answer(200, body.encode())

    double.faults = [page, page, refuses(503, "SlowDown"), page, page]
    found = [(info.key, info.size) for info in store.list("p/")]
    assert found == [(f"p/{number}{letter}", number) for number in range(4) for letter in "abc"]
    assert all("prefix=prod%2Fp%2F" in request.path for request in double.requests)


def test_a_listing_that_fails_half_way_raises(store: S3Store, double: Double) -> None:
    token = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    body = f"<ListBucketResult>{token}<Contents><Key>prod/a</Key><Size>1</Size></Contents></ListBucketResult>"
    double.faults = [
        lambda handler, request: handler.answer(200, body.encode()),
        refuses(403, "AccessDenied"),
    ]
    listing = store.list("")
    assert next(listing).key == "a"
    with pytest.raises(AccessDenied, match="denies list"):
        next(listing)


def test_an_unreachable_store_is_named_without_its_password(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://someone:secret@127.0.0.1:1")
    store = S3Store.open(RepositorySettings(url="s3://backups/prod"), patience=QUICK)
    place = r"bucket backups at http://127\.0\.0\.1:1"
    with pytest.raises(
        StoreUnavailable, match=rf"^cannot reach {place}: connection refused \(get a, 3 tries\)$"
    ):
        store.get("a", 1 << 20)
    store.close()


@pytest.mark.parametrize("url", ["s3://key:secret@backups/p", "s3://-x"])
def test_what_is_no_bucket_name_is_refused_unrepeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"repository\.url: that is no bucket name") as caught:
        S3Store.open(RepositorySettings(url=url))
    assert "secret" not in str(caught.value)


def test_missing_credentials_are_said(
    double: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = open_quick(f"http://127.0.0.1:{double.port}")
    with pytest.raises(CredentialsMissing, match=r"no credentials for bucket backups.*AWS_ACCESS_KEY_ID"):
        store.get("a", 1 << 20)
    store.close()
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(CredentialsMissing, match="absent"):
        open_quick(f"http://127.0.0.1:{double.port}")
