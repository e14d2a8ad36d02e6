"""XAPI's wire: bytes, encodings, TLS, limits."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from infra.simulator import SimulatedPool
from infra.simulator.xmlrpc_wire import encode_success

Talk = Callable[..., bytes]


@pytest.fixture
def talk(pool: SimulatedPool) -> Talk:
    """Sends bytes over TLS and returns all that comes until the server closes."""

    def send(raw: bytes) -> bytes:
        context = ssl.create_default_context(cafile=str(pool.ca_file))
        host = pool.hosts[0]
        with (
            socket.create_connection((host.address, host.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host.address) as tls,
        ):
            tls.sendall(raw)
            answer = b""
            while piece := tls.recv(65536):
                answer += piece
        return answer

    return send


def post(body: bytes, path: str = "/", headers: str = "Connection: close\r\n") -> bytes:
    return f"POST {path} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def call(method: str, *params: str) -> bytes:
    inside = "".join(f"<param><value>{param}</value></param>" for param in params)
    return f"<methodCall><methodName>{method}</methodName><params>{inside}</params></methodCall>".encode()


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (1 << 41, "<value>2199023255552</value>"),
        (True, "<value><boolean>1</boolean></value>"),
        (0.5, "<value><double>0.5</double></value>"),
        ("a<b>&\x01c", "<value>a&lt;b&gt;&amp;c</value>"),
        (["x", 1], "<value><array><data><value>x</value><value>1</value></data></array></value>"),
        ({"k": 3}, "<value><struct><member><name>k</name><value>3</value></member></struct></value>"),
        (None, "<value></value>"),
    ],
)
def test_values_are_encoded_as_xapi_does(value: Any, wire: str) -> None:
    reply = encode_success(value).decode()
    assert f"<member><name>Value</name>{wire}</member>" in reply
    assert "<name>Status</name><value>Success</value>" in reply


def test_a_record_over_the_wire(talk: Talk, api: Any, vm: Any) -> None:
    answer = talk(post(call("VDI.get_record", api.ref, vm.disks[0]), "/RPC2")).decode()
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert "text/xml" in answer
    assert "<name>virtual_size</name><value>4194304</value>" in answer
    assert "<name>managed</name><value><boolean>1</boolean></value>" in answer
    assert "<name>snapshot_of</name><value>OpaqueRef:NULL</value>" in answer
    assert (
        "<name>snapshot_time</name><value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>" in answer
    )


@pytest.mark.parametrize("path", ["/", "/RPC2", "/json"])
def test_a_failure_is_a_status_and_never_a_fault(talk: Talk, path: str) -> None:
    body = body_of(talk(post(call("VDI.get_all", "OpaqueRef:nobody"), path))).decode()
    assert "<name>Status</name><value>Failure</value>" in body
    assert "<value>SESSION_INVALID</value><value>OpaqueRef:nobody</value>" in body
    assert "fault" not in body


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (post(b"<methodCall>", "/RPC2"), b"500"),
        (b"POST / HTTP/1.1\r\nContent-Length: 307201\r\n\r\n", b"500"),
        (b"POST / HTTP/1.1\r\n\r\n", b"500"),
        (b"POST / HTTP/1.1\r\nX: " + b"y" * 1100 + b"\r\n\r\n", b"431"),
        (post(b"", "/elsewhere"), b"404"),
    ],
)
def test_requests_that_get_a_bare_status(talk: Talk, raw: bytes, status: bytes) -> None:
    assert talk(raw).split(b" ")[1] == status


def test_json_rpc_in_both_versions(talk: Talk, api: Any, vm: Any) -> None:
    def ask(method: str, params: list[str], **version: str) -> Any:
        request = {"method": method, "params": params, "id": 5, **version}
        return json.loads(body_of(talk(post(json.dumps(request).encode(), "/jsonrpc"))))

    size = ask("VDI.get_virtual_size", [api.ref, vm.disks[0]], jsonrpc="2.0")
    assert size == {"jsonrpc": "2.0", "result": 4194304, "id": 5}
    new = ask("VDI.get_uuid", [api.ref, "OpaqueRef:x"], jsonrpc="2.0")
    assert new["error"] == {"code": 1, "message": "HANDLE_INVALID", "data": ["VDI", "OpaqueRef:x"]}
    old = ask("VDI.get_uuid", [api.ref, "OpaqueRef:x"])
    assert old == {"result": None, "error": ["HANDLE_INVALID", "VDI", "OpaqueRef:x"], "id": 5}


def test_a_host_that_boots_answers_the_same_to_everything(pool: SimulatedPool, talk: Talk) -> None:
    pool.set_host(pool.hosts[0].uuid, "booting")
    try:
        body = body_of(talk(post(call("session.login_with_password", "root", "x"))))
        assert b"<value>HOST_STILL_BOOTING</value>" in body
        early = talk(post(b'{"method": "pool.get_all", "params": [""], "id": 5}', "/jsonrpc"))
        assert json.loads(body_of(early)) == {"jsonrpc": "2.0", "error": ["HOST_STILL_BOOTING"], "id": 0}
    finally:
        pool.set_host(pool.hosts[0].uuid, "up")


def test_tls_1_2_with_one_curve_and_nothing_else(pool: SimulatedPool) -> None:
    host = pool.hosts[0]
    context = ssl.create_default_context(cafile=str(pool.ca_file))
    with (
        socket.create_connection((host.address, host.port)) as plain,
        context.wrap_socket(plain, server_hostname=host.name) as tls,
    ):
        assert tls.version() == "TLSv1.2"
        assert tls.cipher()[0] in {"ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"}  # type: ignore[index]
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with socket.create_connection((host.address, host.port)) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname=host.name)


def test_several_requests_on_one_connection(pool: SimulatedPool, talk: Talk) -> None:
    first = post(call("pool.get_all", "OpaqueRef:a"), headers="")
    answer = talk(first + post(call("pool.get_all", "OpaqueRef:b")))
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"OpaqueRef:a") < answer.index(b"OpaqueRef:b")
