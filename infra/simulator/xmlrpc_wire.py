"""XAPI's dialect of XML-RPC.

An int is an untagged value (so is every string): clients see text. Booleans, doubles, dateTimes, arrays and
structs are tagged. There is never a <fault>.
"""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class NotXmlRpc(ValueError):
    """A request body that is no XML-RPC call."""


class TaggedInt(int):
    """The one kind of int that XAPI tags <i4>: the counts in event.from's valid_ref_counts."""


def decode_call(body: bytes) -> tuple[str, list[Any]]:
    """Method and parameters. Raises NotXmlRpc."""
    try:
        params, method = xmlrpc.client.loads(body)
    except (ExpatError, xmlrpc.client.Error, ValueError, TypeError, IndexError) as error:
        raise NotXmlRpc(str(error)) from error
    if method is None:
        raise NotXmlRpc("no method name")
    return method, [_plain(param) for param in params]


def encode_success(value: Any) -> bytes:
    return _reply({"Status": "Success", "Value": "" if value is None else value})


def encode_failure(description: list[str]) -> bytes:
    return _reply({"Status": "Failure", "ErrorDescription": list(description)})


def encode_value(value: Any) -> str:
    """One <value> element; also what a task's result holds."""
    if isinstance(value, bool):
        return f"<value><boolean>{int(value)}</boolean></value>"
    if isinstance(value, TaggedInt):
        return f"<value><i4>{int(value)}</i4></value>"
    if isinstance(value, float):
        return f"<value><double>{value!r}</double></value>"
    if isinstance(value, datetime):
        stamp = value.astimezone(UTC).strftime("%Y%m%dT%H:%M:%SZ")
        return f"<value><dateTime.iso8601>{stamp}</dateTime.iso8601></value>"
    if isinstance(value, Mapping):
        members = "".join(
            f"<member><name>{_text(name)}</name>{encode_value(member)}</member>"
            for name, member in value.items()
        )
        return f"<value><struct>{members}</struct></value>"
    if isinstance(value, (list, tuple)):
        return f"<value><array><data>{''.join(map(encode_value, value))}</data></array></value>"
    return f"<value>{_text(value)}</value>"


def _reply(value: dict[str, Any]) -> bytes:
    body = f"<methodResponse><params><param>{encode_value(value)}</param></params></methodResponse>"
    return ('<?xml version="1.0"?>' + body).encode()


def _text(value: Any) -> str:
    return escape(_CONTROL.sub("", str(value)), {'"': "&quot;"})


def _plain(value: Any) -> Any:
    if isinstance(value, xmlrpc.client.DateTime):
        return datetime.strptime(str(value).rstrip("Z"), "%Y%m%dT%H:%M:%S").replace(tzinfo=UTC)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value
