"""Over HTTP: whole disks (GET /export_raw_vdi and PUT /import_raw_vdi, format raw alone) and VMs' metadata.

Of a disk a 200 says only that the transfer has begun: how it ended is in the task.
"""

from __future__ import annotations

import base64
import hmac
import io
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from infra.simulator import storage
from infra.simulator.attachments import attach_to_dom0, detach_from_dom0
from infra.simulator.calls.session import check_role, check_session, open_session
from infra.simulator.failures import Failure
from infra.simulator.http_wire import Refused, Request, RequestReader
from infra.simulator.listener import Connection
from infra.simulator.state import State
from infra.simulator.tasks import complete_task
from infra.simulator.vdi_content import Content

_BEGIN = b"HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\r\n"


def export_raw_vdi(
    state: State, host: str, connection: Connection, reader: RequestReader, request: Request
) -> None:
    """The whole disk, without Content-Length. Raises Refused."""
    query = _query(request)
    with _session(state, host, request, query), state.lock:
        vdi = _find_vdi(state, query)
        elsewhere = _redirection(state, host, vdi, request)
    if elsewhere is not None:
        connection.socket.sendall(elsewhere)
        return
    with _transfer(state, query), _attached(state, host, vdi, "RO") as content:
        connection.socket.sendall(_BEGIN)
        for piece in content.pieces():
            connection.socket.sendall(piece)


def import_raw_vdi(
    state: State, host: str, connection: Connection, reader: RequestReader, request: Request
) -> None:
    """Writes the body over the disk from its start; a new disk of that size with `sr_id` or `sr_uuid`."""
    if "transfer-encoding" in request.headers:
        raise Refused(404)
    query = _query(request)
    length = int(request.headers.get("content-length", "0"))
    with _session(state, host, request, query), state.lock:
        vdi = _new_vdi(state, query, length) if {"sr_id", "sr_uuid"} & set(query) else _find_vdi(state, query)
        elsewhere = _redirection(state, host, vdi, request)
    if elsewhere is not None:
        connection.socket.sendall(elsewhere)
        return
    connection.socket.sendall(_BEGIN)
    with _transfer(state, query), _attached(state, host, vdi, "RW") as content:
        offset = 0
        for piece in reader.pieces(length):
            _write(state, vdi, content, offset, piece)
            offset += len(piece)
        if offset < length:
            raise Failure("VDI_IO_ERROR", "the connection ended before the data")


def export_metadata(
    state: State, host: str, connection: Connection, reader: RequestReader, request: Request
) -> None:
    """A VM's records as an XVA without disks, of known length, in HTTP/1.0. Raises Refused."""
    query = _query(request)
    with _session(state, host, request, query), state.lock:
        vm = _find_vm(state, query)
        fault = state.faults.call("http/export_metadata", [vm, state.database.get("VM", vm)["uuid"]])
        if fault is not None:
            state.pause(fault.delay)
            if fault.failure:
                raise Refused(int(fault.failure[0]))
        body = _xva(state, vm)
    head = (
        "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\r\n"
    )
    connection.socket.sendall(head.encode())
    connection.socket.sendall(body[: len(body) // 2] if fault is not None and fault.drop_reply else body)


TRANSFERS: dict[tuple[str, str], Callable[[State, str, Connection, RequestReader, Request], None]] = {
    ("GET", "/export_raw_vdi"): export_raw_vdi,
    ("PUT", "/import_raw_vdi"): import_raw_vdi,
    ("GET", "/export_metadata"): export_metadata,
}


def _query(request: Request) -> dict[str, str]:
    query = {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}
    if query.get("format", "raw") != "raw":
        raise Refused(501)
    return query


@contextmanager
def _session(state: State, host: str, request: Request, query: dict[str, str]) -> Iterator[None]:
    """By query, cookie, or name and password. Raises Refused 401 or 403."""
    with state.lock:
        own = None
        session = query.get("session_id") or _cookie(request)
        if not session:
            own = session = open_session(state, host, _basic_user(state, request), "")
        try:
            check_session(state, session)
            check_role(state, session, f"http/{request.path[1:]}", "vm-admin")
        except Failure as failure:
            raise Refused(401 if failure.code == "SESSION_INVALID" else 403) from None
        finally:
            if own:
                state.database.delete("session", own)
    yield


def _cookie(request: Request) -> str | None:
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "session_id":
            return value
    return None


def _basic_user(state: State, request: Request) -> str:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        name, _, password = base64.b64decode(encoded).decode().partition(":")
    except ValueError:
        raise Refused(401) from None
    user = state.users.get(name)
    if (
        scheme != "Basic"
        or user is None
        or not hmac.compare_digest(user.password.encode(), password.encode())
    ):
        raise Refused(401)
    return name


def _find_vdi(state: State, query: dict[str, str]) -> str:
    wanted = query.get("vdi", "")
    try:
        vdi = wanted if state.database.exists("VDI", wanted) else state.database.by_uuid("VDI", wanted)
    except Failure:
        raise Refused(404) from None
    return vdi


def _find_vm(state: State, query: dict[str, str]) -> str:
    try:
        return query.get("ref") or state.database.by_uuid("VM", query.get("uuid", ""))
    except Failure:
        raise Refused(404) from None


def _xva(state: State, vm: str) -> bytes:
    """A tar with `ova.xml`: the VM, its VBDs and their VDIs, each a struct of texts."""
    database = state.database
    objects = [("VM", vm)]
    for vbd in database.find("VBD", VM=vm):
        objects.append(("VBD", vbd))
        if database.exists("VDI", vdi := database.get("VBD", vbd)["VDI"]):
            objects.append(("VDI", vdi))
    text = "<value><struct>"
    for cls, ref in objects:
        text += f"<member><name>{cls}</name><value><struct>"
        for name, value in database.get(cls, ref).items():
            text += f"<member><name>{name}</name><value>{escape(str(value))}</value></member>"
        text += "</struct></value></member>"
    data = (text + "</struct></value>").encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("ova.xml")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def _new_vdi(state: State, query: dict[str, str], size: int) -> str:
    try:
        sr = query.get("sr_id") or state.database.by_uuid("SR", query["sr_uuid"])
        state.database.get("SR", sr)
    except Failure:
        raise Refused(404) from None
    rounded = -(-size // state.spec.size_rounding) * state.spec.size_rounding
    return storage.create_vdi(state, Content.new(rounded), SR=sr)


def _redirection(state: State, host: str, vdi: str, request: Request) -> bytes | None:
    """302 to a host that has the SR, when this one has not."""
    database = state.database
    sr = database.get("VDI", vdi)["SR"]
    having = [
        database.get("PBD", pbd)["host"] for pbd in database.find("PBD", SR=sr, currently_attached=True)
    ]
    if host in having or not having:
        return None
    address = database.get("host", having[0])["address"]
    location = f"https://{address}:{state.xapi_port}{request.target}"
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nConnection: close\r\n\r\n".encode()


@contextmanager
def _transfer(state: State, query: dict[str, str]) -> Iterator[None]:
    """The task that the caller named tells how it ended."""
    task = query.get("task_id", "")
    try:
        yield
    except Failure as failure:
        with state.lock:
            complete_task(state, task, status="failure", error_info=list(failure.description))
    except OSError:
        with state.lock:
            complete_task(state, task, status="failure", error_info=["CLIENT_ERROR"])
        raise
    else:
        with state.lock:
            complete_task(state, task, status="success", result="")


@contextmanager
def _attached(state: State, host: str, vdi: str, mode: str) -> Iterator[Content]:
    task = f"OpaqueRef:{uuid.uuid4()}"
    with state.lock:
        record = state.database.get("VDI", vdi)
        vbd = attach_to_dom0(state, host, record["uuid"], task, mode)
        content = state.contents[vdi]
    try:
        yield content
    finally:
        with state.lock:
            detach_from_dom0(state, vbd, task, 0)


def _write(state: State, vdi: str, content: Content, offset: int, piece: bytes) -> None:
    with state.lock:
        try:
            blocks = content.write(offset, piece)
        except ValueError:
            raise Failure("VDI_IO_ERROR", "more data than the disk holds") from None
        state.cbt.wrote(state.database.get("VDI", vdi)["uuid"], blocks)
