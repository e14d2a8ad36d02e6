"""Reading a pool's records, of which any may be gone, or its call be unknown to this pool's XAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from workers.xenapi.errors import XapiFailure

NULL_REF = "OpaqueRef:NULL"
"""A reference to nothing: the disk of an empty drive, the host of a VM that is off."""

XapiRecord = Mapping[str, Any]
"""One object's fields by name: texts (also for whole numbers), booleans, and lists and maps of these. Which
there are depends on the pool's version."""

XapiRecords = Mapping[str, XapiRecord]
"""Objects of one class by their reference."""

_GONE = ("HANDLE_INVALID", "UUID_INVALID")


class Caller(Protocol):
    """A `Session`, or whoever answers in its place."""

    def call(self, method: str, *args: Any) -> Any: ...


def is_gone(error: BaseException) -> bool:
    """Whether XAPI says that the object asked for is not there: never was, or was deleted meanwhile."""
    return isinstance(error, XapiFailure) and error.code in _GONE


def is_unknown_call(error: BaseException) -> bool:
    """Whether XAPI does not have the method at all; then nothing was done."""
    return isinstance(error, XapiFailure) and error.code == "MESSAGE_METHOD_UNKNOWN"


def ref_or_none(session: Caller, kind: str, uuid: str) -> str | None:
    """The reference of the object with this uuid; None when it is gone. Raises XapiError."""
    try:
        return str(session.call(f"{kind}.get_by_uuid", uuid))
    except XapiFailure as failure:
        if not is_gone(failure):
            raise
        return None


def record_or_none(session: Caller, kind: str, ref: str) -> XapiRecord | None:
    """None when it is gone: a reference in a list may point to what was deleted meanwhile.

    Raises XapiError.
    """
    try:
        record: XapiRecord = session.call(f"{kind}.get_record", ref)
    except XapiFailure as failure:
        if not is_gone(failure):
            raise
        return None
    return record


def records_where(session: Caller, kind: str, flag: str) -> dict[str, XapiRecord]:
    """Records in which the boolean field `flag` is true, by reference. Raises XapiError.

    A XAPI that cannot choose them is asked for all; what it chose is looked at again.
    """
    found: XapiRecords
    try:
        found = session.call(f"{kind}.get_all_records_where", f'field "{flag}"="true"')
    except XapiFailure as failure:
        if not is_unknown_call(failure):
            raise
        found = session.call(f"{kind}.get_all_records")
    return {ref: record for ref, record in found.items() if record.get(flag)}
