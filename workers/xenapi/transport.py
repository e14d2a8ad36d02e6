"""XML-RPC to one host: each request goes over the wire exactly once, and each reply has the right shape.

The standard transport sends a request again when a kept connection breaks, and `VM.snapshot` would run twice
(docs/adr/0030-xenapi-sent-once.md).
"""

from __future__ import annotations

import http.client
import select
import time
import xmlrpc.client
from typing import Any
from xml.parsers.expat import ExpatError

from workers.xenapi.connection import Connection, Server

_REUSE_SECONDS = 5.0  # an idle connection older than this may be dead without our knowing
LARGEST_ANSWER = 256 << 20
"""Bytes. The largest we ask for are all records of one class, some 3 KiB each: this is 80,000 disks."""
_XMLRPC_INT = range(-(2**31), 2**31)


class _Unmarshaller(xmlrpc.client.Unmarshaller):
    """Dates stay the text that XAPI sent, "20260101T12:00:00Z": sortable, and no type of xmlrpc leaks."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatch = {**self.dispatch, "dateTime.iso8601": xmlrpc.client.Unmarshaller.end_string}


class Transport(xmlrpc.client.Transport):
    """Sends each request exactly once, over a kept connection only while that is known to be alive."""

    user_agent = "cbtfleet"
    accept_gzip_encoding = False

    def __init__(self, server: Server, timeout: float) -> None:
        super().__init__()
        self.server = server
        self.timeout = timeout
        self.reused = False
        """The last request went over a connection that had been kept."""
        self._keep = True
        self._used = 0.0

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        try:
            return self.single_request(host, handler, request_body, verbose)
        except BaseException:
            # Also when interrupted: the answer still to come must not meet the logout that follows.
            self.close()
            self._keep = self._keep and not self.reused
            raise
        finally:
            self._used = time.monotonic()

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        self.reused = self._alive()
        if not self.reused:
            self.close()
            self._connection = host, Connection(self.server, self.timeout)
        connection = self._connection[1]
        assert isinstance(connection, Connection)
        connection.begin(self.timeout, LARGEST_ANSWER)
        return connection

    def _alive(self) -> bool:
        """Nothing to read between two calls means that the server has not closed; a FIN is readable.

        A server that closes while we are busy with it does so after each call: the next FIN may come too
        late to be seen, so nothing is kept from then on.
        """
        connection = self._connection[1]
        idle = time.monotonic() - self._used
        if not self._keep or connection is None or connection.sock is None or idle > _REUSE_SECONDS:
            return False
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        self._keep = not poll.poll(0)
        return self._keep

    def parse_response(self, response: Any) -> tuple[Any, ...]:
        """The one reply struct. ResponseError for anything else."""
        target = _Unmarshaller()
        parser = xmlrpc.client.ExpatParser(target)
        try:
            while piece := response.read1(65536):
                parser.feed(piece)
            response.close()  # read1 leaves it open at its end, and the connection waits for that
            parser.close()
            reply = target.close()
        except (ExpatError, ValueError, LookupError, TypeError) as error:
            raise xmlrpc.client.ResponseError("it is not XML-RPC") from error
        if not _well_formed(reply):
            raise xmlrpc.client.ResponseError("it is not a struct with Status and Value or ErrorDescription")
        return reply


def _well_formed(reply: tuple[Any, ...]) -> bool:
    if len(reply) != 1 or not isinstance(reply[0], dict):
        return False
    status, failure = reply[0].get("Status"), reply[0].get("ErrorDescription")
    if status == "Failure":
        return isinstance(failure, list) and bool(failure) and all(isinstance(part, str) for part in failure)
    return status == "Success" and "Value" in reply[0]


def wire(value: Any) -> Any:
    """`value` as XAPI wants it: XML-RPC has no integers beyond 32 bits, and XAPI takes them as text."""
    if isinstance(value, dict):
        return {str(key): wire(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [wire(member) for member in value]
    if isinstance(value, int) and not isinstance(value, bool) and value not in _XMLRPC_INT:
        return str(value)
    return value
