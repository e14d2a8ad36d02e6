"""One host's xapi-nbd: slots, the handshake, and one strictly serial connection after another's reads.

accept -- a slot free? --no--> EOF, not one byte
   | yes: the slot is taken, also while nothing happens
   |-- purpose "nbd": STARTTLS is forced; "insecure_nbd": no TLS; none or both: EOF
   |-- options, EXPORT_NAME: session? VDI? VBD plugged into dom0? no: EOF without a reason
   |-- reads, in order, one at a time; any error reply ends the connection
close -- the VBD is unplugged and destroyed, and only then is the slot free
stop -- the service's own count ends with it, and what it had plugged is unplugged
"""

from __future__ import annotations

import contextlib
import math
import ssl
import uuid
from dataclasses import dataclass

from infra.simulator import nbd_wire as wire
from infra.simulator.attachments import attach_to_dom0, detach_from_dom0
from infra.simulator.calls.session import check_role, check_session
from infra.simulator.failures import Failure, Stopping
from infra.simulator.listener import Connection
from infra.simulator.log import ConnectionEntry
from infra.simulator.nbd_reads import Ended, serve_reads, wait_for_client_to_go
from infra.simulator.state import State
from infra.simulator.vdi_content import Content

_MAX_OPTION = 64 << 10


@dataclass
class NbdService:
    """xapi-nbd on one host. The certificate is the one of its start, whatever XAPI has since."""

    state: State
    host: str
    host_uuid: str
    context: ssl.SSLContext
    stopped: bool = False

    def stop(self) -> None:
        """Connections that wait for whatever end now; who accepts for it has to be stopped too."""
        with self.state.lock:
            self.stopped = True
            self.state.database.changed.notify_all()

    def handle(self, connection: Connection) -> None:
        """Serves one connection, from accept until its slot is free."""
        state = self.state
        entry, taken = state.log.accepted(self.host_uuid, connection.address, state.spec.connection_limit)
        if not taken:
            return
        vbds: list[str] = []
        outcome = "broken"
        try:
            outcome = self._converse(connection, entry, vbds)
        except Ended as ended:
            outcome = ended.outcome
        except Stopping:
            outcome = "stopped"
        except OSError:
            outcome = "client-vanished"
        finally:
            if self.stopped:
                outcome = "service-stopped"
            if outcome not in {"reset", "client-vanished"}:
                connection.say_goodbye()
            connection.close()
            state.log.socket_closed(entry, outcome)
            self._clean_up(entry, vbds, seen=outcome not in {"closed-by-client", "client-vanished"})
            state.log.slot_freed(entry)

    def _converse(self, connection: Connection, entry: ConnectionEntry, vbds: list[str]) -> str:
        state = self.state
        self._fault(connection, entry, "accept")
        with state.lock:
            # Its XAPI cannot answer without the master: it retries, and gives up.
            answers = state.wait_for(
                lambda: self.stopped or state.is_live(state.master), state.spec.timing.xapi_retry
            )
            if not answers or self.stopped:
                return "rejected-no-xapi"
            purposes = {
                purpose
                for ref in state.database.refs("network")
                for purpose in state.database.get("network", ref)["purpose"]
            }
        if len(purposes) != 1:
            return "rejected-no-purpose"
        forced_tls = purposes == {"nbd"}
        connection.socket.sendall(wire.GREETING)
        flags = connection.receive(4)
        if flags is None:
            return "closed-by-client"
        if forced_tls:
            if not int.from_bytes(flags) & wire.FIXED_NEWSTYLE:
                return "not-fixed-newstyle"
            self._await_tls(connection)
        content = self._negotiate(connection, entry, in_tls=forced_tls, vbds=vbds)
        return serve_reads(state, connection, entry, content)

    def _await_tls(self, connection: Connection) -> None:
        """Options before TLS: only STARTTLS gets anywhere. Raises Ended."""
        while True:
            option, _ = _option(connection)
            if option == wire.OPT_STARTTLS:
                connection.socket.sendall(wire.option_reply(option, wire.REP_ACK))
                try:
                    connection.upgrade(self.context)
                except ssl.SSLError:
                    raise Ended("tls-failed") from None
                return
            if option in {wire.OPT_EXPORT_NAME, wire.OPT_ABORT}:
                raise Ended("refused-before-tls" if option == wire.OPT_EXPORT_NAME else "aborted")
            connection.socket.sendall(wire.option_reply(option, wire.ERR_TLS_REQD))

    def _negotiate(
        self, connection: Connection, entry: ConnectionEntry, *, in_tls: bool, vbds: list[str]
    ) -> Content:
        """Options inside TLS, or without any TLS. Raises Ended."""
        refusals = {
            wire.OPT_STARTTLS: wire.ERR_INVALID if in_tls else wire.ERR_POLICY,
            wire.OPT_LIST: wire.ERR_POLICY,
        }
        while True:
            option, data = _option(connection)
            if option == wire.OPT_EXPORT_NAME:
                content = self._open(connection, entry, data, vbds)
                self.state.log.answered(entry)
                connection.socket.sendall(wire.export_reply(content.size))
                return content
            if option == wire.OPT_ABORT:
                connection.socket.sendall(wire.option_reply(option, wire.REP_ACK))
                raise Ended("aborted")
            connection.socket.sendall(wire.option_reply(option, refusals.get(option, wire.ERR_UNSUP)))

    def _open(self, connection: Connection, entry: ConnectionEntry, name: bytes, vbds: list[str]) -> Content:
        """Session, VDI, VBD. Raises Ended for every failure alike: the client sees an EOF."""
        state = self.state
        parsed = wire.parse_export_name(name)
        if parsed is None:
            raise Ended("bad-export-name")
        vdi_uuid, session = parsed
        state.log.asked(entry, vdi_uuid)
        self._fault(connection, entry, "export")
        with state.lock:
            try:
                check_session(state, session)
                check_role(state, session, "VBD.create", "vm-admin")
                vdi = state.database.by_uuid("VDI", vdi_uuid)
                vbds.append(attach_to_dom0(state, self.host, vdi_uuid, f"OpaqueRef:{uuid.uuid4()}"))
                state.opened_vbds.update(vbds)
            except Failure as failure:
                raise Ended(f"refused-{failure.code.lower().replace('_', '-')}") from None
            return state.contents[vdi]

    def _fault(self, connection: Connection, entry: ConnectionEntry, where: str) -> None:
        fault = self.state.faults.nbd({f"eof_at_{where}", f"stall_at_{where}"}, self.host_uuid, entry.vdi)
        if fault is None:
            return
        if fault.name.startswith("stall"):
            wait_for_client_to_go(connection)
        raise Ended(f"fault-{fault.name}")

    def _clean_up(self, entry: ConnectionEntry, vbds: list[str], *, seen: bool) -> None:
        """The slot's last part: unplugging takes its time, and the slot is not free before.

        `seen`: the end did not come from the client alone, without a word, so that it could get lost.
        """
        state = self.state
        with state.lock, contextlib.suppress(Stopping):
            if not seen and state.faults.nbd({"vanish"}, self.host_uuid, entry.vdi):
                state.wait_for(lambda: self.stopped, math.inf)
            # Without a plugged disk there is nothing that could take long.
            late = state.faults.nbd({"late_release"}, self.host_uuid, entry.vdi) if vbds else None
            if late:
                state.wait_for(lambda: self.stopped, late.seconds)
            state.opened_vbds.difference_update(vbds)
            delay = 0.0 if self.stopped else state.spec.timing.slot_release_delay
            leaks = bool(vbds) and state.faults.nbd({"leak"}, self.host_uuid, entry.vdi) is not None
            if leaks or not vbds:
                state.pause(delay)
            for vbd in [] if leaks else vbds:
                detach_from_dom0(state, vbd, f"OpaqueRef:{uuid.uuid4()}", delay)


def _option(connection: Connection) -> tuple[int, bytes]:
    """The next option and its data. Raises Ended."""
    header = connection.receive(16)
    if header is None:
        raise Ended("closed-by-client")
    length = int.from_bytes(header[12:])
    if header[:8] != wire.OPTION_MAGIC or length > _MAX_OPTION:
        raise Ended("bad-magic")
    data = connection.receive(length)
    if data is None:
        raise Ended("closed-by-client")
    return int.from_bytes(header[8:12]), data
