"""Scripted faults: rules that match a call, a connection or a read, a given number of times."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

NBD_FAULTS = {
    "eof_at_accept": "the connection closes before the greeting",
    "stall_at_accept": "no greeting ever comes",
    "eof_at_export": "the connection closes instead of answering EXPORT_NAME",
    "stall_at_export": "EXPORT_NAME is never answered",
    "close_after_bytes": "the connection closes after `bytes` bytes of data",
    "reset": "the connection is reset after `bytes` bytes of data",
    "stall": "nothing more comes after `bytes` bytes of data",
    "io_error_at_block": "a read that touches `block`: success header, then EOF",
    "error_reply": "a read that touches `block` (any, without it): error reply `errno`, then EOF",
    "wrong_magic": "one reply has a wrong magic",
    "wrong_handle": "one reply has another handle",
    "slow": "every read takes `seconds` longer",
    "leak": "the VBD stays plugged when the connection ends (the slot is freed)",
    "late_release": "when the connection ends, VBD and slot stay for `seconds` more",
    "late_end": "when the client disconnects, the connection is ended `seconds` later",
    "vanish": "an end without a goodbye goes unseen: VBD and slot stay until the service stops",
}
SM_FAULTS = {
    "cbt_snapshot": "the snapshot succeeds, but the live VDI's CBT is off afterwards",
    "cbt_padding": "list_changed_blocks answers with the bits after the last block set",
    "cbt_resize": "the resize succeeds, but CBT is off afterwards",
    "snapshot": "the snapshot of a VDI fails with `number` (SR_BACKEND_FAILURE_<number>, default 202)",
    "no_space": "the snapshot of a VDI fails with SR_BACKEND_FAILURE_44",
}


@dataclass
class Fault:
    """One rule. `vdi` and `host` are uuids (None: any); `count` is how often it strikes, -1: for ever."""

    kind: str
    """`nbd`, `xapi` or `sm`."""
    name: str
    """One of NBD_FAULTS, a method, or one of SM_FAULTS."""
    count: int = 1
    host: str | None = None
    vdi: str | None = None
    object: str | None = None
    """xapi: strikes only a call that has this uuid or reference among its arguments."""
    failure: tuple[str, ...] = ()
    delay: float = 0.0
    drop_reply: bool = False
    drop_request: bool = False
    bytes: int = 0
    block: int | None = None
    errno: int = 5
    seconds: float = 0.0
    number: int = 202

    @classmethod
    def from_json(cls, rule: dict[str, Any]) -> Fault:
        """Raises ValueError that says what is wrong with the rule."""
        kinds = [kind for kind in ("nbd", "xapi", "sm") if kind in rule]
        if len(kinds) != 1:
            raise ValueError('a fault needs exactly one of "nbd", "xapi" and "sm"')
        values = dict(rule)
        kind, name = kinds[0], str(values.pop(kinds[0]))
        known = {"nbd": NBD_FAULTS, "sm": SM_FAULTS}.get(kind)
        if known is not None and name not in known:
            raise ValueError(f'no {kind} fault "{name}"; known: {", ".join(known)}')
        if "failure" in values:
            values["failure"] = tuple(str(part) for part in values["failure"])
        try:
            return cls(kind, name, **values)
        except TypeError as error:
            raise ValueError(f"a fault has no such key: {error}") from None


@dataclass
class Faults:
    """All rules in force; the first that matches strikes."""

    _rules: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._rules.append(fault)

    def clear(self, kind: str | None = None, name: str | None = None) -> None:
        """All rules, those of one kind, or those of one name."""
        with self._lock:
            self._rules = [
                rule for rule in self._rules if kind not in {None, rule.kind} or name not in {None, rule.name}
            ]

    def as_json(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def call(self, method: str, objects: Iterable[str]) -> Fault | None:
        """`objects`: the call's text arguments, and the uuids behind those that are references."""
        wanted = set(objects)
        return self._take(
            lambda rule: (
                rule.kind == "xapi" and rule.name == method and (rule.object is None or rule.object in wanted)
            )
        )

    def nbd(self, names: set[str], host: str, vdi: str | None) -> Fault | None:
        return self._take(
            lambda rule: rule.kind == "nbd" and rule.name in names and _matches(rule, host, vdi),
        )

    def nbd_read(self, host: str, vdi: str, blocks: range, sent: int, length: int) -> Fault | None:
        """The fault that strikes this read: its blocks, or the bytes that the connection has sent."""

        def strikes(rule: Fault) -> bool:
            if rule.kind != "nbd" or not _matches(rule, host, vdi):
                return False
            if rule.name in {"close_after_bytes", "reset", "stall"}:
                return sent + length > rule.bytes
            if rule.name in {"io_error_at_block", "error_reply", "wrong_magic", "wrong_handle", "slow"}:
                return rule.block is None or rule.block in blocks
            return False

        return self._take(strikes)

    def storage(self, name: str, vdi: str) -> Fault | None:
        return self._take(lambda rule: rule.kind == "sm" and rule.name == name and _matches(rule, None, vdi))

    def _take(self, strikes: Any) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if strikes(rule):
                    if rule.count > 0:
                        rule.count -= 1
                    if rule.count == 0:
                        self._rules.remove(rule)
                    return rule
        return None


def _matches(rule: Fault, host: str | None, vdi: str | None) -> bool:
    return (rule.host is None or rule.host == host) and (rule.vdi is None or rule.vdi == vdi)
