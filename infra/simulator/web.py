"""One host's XAPI: XML-RPC, JSON-RPC and transfers of disks, over TLS."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable

from infra.simulator import jsonrpc_wire, xmlrpc_wire
from infra.simulator.dispatch import dispatch
from infra.simulator.failures import Failure, ReplyDropped, Stopping, TooEarly
from infra.simulator.http_wire import FIRST_TOTAL, Refused, Request, RequestReader, response
from infra.simulator.listener import Connection
from infra.simulator.state import State
from infra.simulator.transfers import TRANSFERS


def serve_xapi(
    state: State, host: str, context: Callable[[], ssl.SSLContext]
) -> Callable[[Connection], None]:
    """The handler of one host's HTTPS connections."""

    def handle(connection: Connection) -> None:
        connection.socket.settimeout(FIRST_TOTAL)
        connection.upgrade(context())
        reader = RequestReader(connection)
        with contextlib.suppress(ReplyDropped, Stopping):
            while _serve_one(state, host, connection, reader):
                pass
        connection.say_goodbye()

    return handle


def _serve_one(state: State, host: str, connection: Connection, reader: RequestReader) -> bool:
    """Answers one request; False when it was the connection's last."""
    try:
        request = reader.next()
        if request is None:
            return False
        if (request.method, request.path) in TRANSFERS:
            TRANSFERS[request.method, request.path](state, host, connection, reader, request)
            return False
        if request.path not in {"/", "/RPC2", "/json", "/jsonrpc"}:
            raise Refused(404)
        if request.method != "POST":
            raise Refused(405)
        content_type, body = _answer(state, host, request)
    except Refused as refused:
        connection.socket.sendall(response(refused.status, "text/html", b"", keep_alive=False))
        return False
    connection.socket.sendall(response(200, content_type, body, keep_alive=request.keep_alive))
    return request.keep_alive


def _answer(state: State, host: str, request: Request) -> tuple[str, bytes]:
    if request.path == "/jsonrpc":
        try:
            call = jsonrpc_wire.decode_call(request.body)
        except jsonrpc_wire.NotJsonRpc as error:
            raise Refused(500) from error
        try:
            return "application/json", call.success(dispatch(state, host, call.method, call.params))
        except TooEarly as failure:
            return "application/json", jsonrpc_wire.early_failure(failure.description)
        except Failure as failure:
            return "application/json", call.failure(failure.description)
    try:
        method, params = xmlrpc_wire.decode_call(request.body)
        return "text/xml", xmlrpc_wire.encode_success(dispatch(state, host, method, params))
    except Failure as failure:
        return "text/xml", xmlrpc_wire.encode_failure(failure.description)
    except xmlrpc_wire.NotXmlRpc as error:
        raise Refused(500) from error
