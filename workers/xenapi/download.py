"""What XAPI serves by plain HTTP GET, besides its calls: read whole, of bounded size, within bounded time.

Source: xapi_http.ml, export.ml. The session goes in a cookie: an address ends up in logs.
"""

from __future__ import annotations

import http.client
from contextlib import closing

from workers.xenapi.connection import AnswerTooLong, Connection, Server
from workers.xenapi.errors import AnswerLost, BadAnswer, CallTimedOut, NotServed, SessionLost, XapiFailure

_PIECE = 1 << 20
_HEADERS = 1 << 16
"""Bytes that an answer may have besides its body."""
_NOT_THERE = (404, 405, 501)


def download(server: Server, path: str, reference: str, timeout: float, limit: int, deadline: float) -> bytes:
    """`timeout`: seconds for each piece; `deadline`: for all of it. `reference` is the session's.

    Raises NotServed, SessionLost, XapiFailure, PoolUnreachable, AnswerLost, CallTimedOut, or BadAnswer.
    """
    method = f"GET {path.partition('?')[0]}"
    where = f"pool {server.pool}: {method}"
    headers = {"Cookie": f"session_id={reference}", "User-Agent": "cbtfleet", "Connection": "close"}
    with closing(Connection(server, min(timeout, deadline))) as connection:
        connection.begin(deadline, limit + _HEADERS)
        try:
            connection.request("GET", path, headers=headers)
            with closing(connection.getresponse()) as response:
                if response.status != 200:
                    raise _refusal(response.status, method, where, server.pool)
                return _body(response, where, limit)
        except AnswerTooLong as error:
            raise BadAnswer(f"{where}: the answer is longer than the {limit} bytes that we take") from error
        except TimeoutError as error:
            raise CallTimedOut(f"{where}: not all of it within {deadline:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise AnswerLost(f"{where}: the connection broke before the answer's end") from error


def _body(response: http.client.HTTPResponse, where: str, limit: int) -> bytes:
    if response.length is None:
        raise BadAnswer(f"{where}: the answer does not say how long it is")
    if response.length > limit:
        raise BadAnswer(f"{where}: {response.length} bytes are more than the {limit} that we take")
    data = bytearray()
    while piece := response.read(_PIECE):
        data += piece
    if response.length:  # read(n) ends quietly with the connection
        raise AnswerLost(f"{where}: the connection ended before the answer did")
    return bytes(data)


def _refusal(
    status: int, method: str, where: str, pool: str
) -> NotServed | SessionLost | XapiFailure | BadAnswer:
    if status == 401:
        return SessionLost(f"{where}: the session has ended on the pool; log in again")
    if status == 403:
        return XapiFailure("RBAC_PERMISSION_DENIED", [method], method, pool)
    if status in _NOT_THERE:
        return NotServed(f"{where}: this pool does not serve that (HTTP status {status})")
    return BadAnswer(f"{where}: HTTP status {status}")
