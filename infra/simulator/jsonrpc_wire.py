"""XAPI's JSON-RPC: version 2.0 and the older form without a version, told apart by the request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


class NotJsonRpc(ValueError):
    """A request body that is no JSON-RPC call."""


@dataclass(frozen=True)
class JsonCall:
    method: str
    params: list[Any]
    id: int | str
    version2: bool

    def success(self, value: Any) -> bytes:
        result = _plain("" if value is None else value)
        if self.version2:
            return _dump({"jsonrpc": "2.0", "result": result, "id": self.id})
        return _dump({"result": result, "error": None, "id": self.id})

    def failure(self, description: list[str]) -> bytes:
        if self.version2:
            error = {"code": 1, "message": description[0], "data": list(description[1:])}
            return _dump({"jsonrpc": "2.0", "error": error, "id": self.id})
        return _dump({"result": None, "error": list(description), "id": self.id})


def decode_call(body: bytes) -> JsonCall:
    """Raises NotJsonRpc: also without an id, which XAPI insists on."""
    try:
        request = json.loads(body)
        method, params, identity = request["method"], request.get("params", []), request["id"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotJsonRpc(str(error)) from error
    if not (isinstance(method, str) and isinstance(params, list) and isinstance(identity, (int, str))):
        raise NotJsonRpc("method, params or id of the wrong type")
    return JsonCall(method, params, identity, request.get("jsonrpc") == "2.0")


def early_failure(description: list[str]) -> bytes:
    """A failure before dispatch: version 2 whatever was asked, id 0, the error a bare array."""
    return _dump({"jsonrpc": "2.0", "error": list(description), "id": 0})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y%m%dT%H:%M:%SZ")
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def _dump(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()
