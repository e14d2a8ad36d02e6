"""One thing looked at, and what a person should do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """`said` is what was found, `todo` what to do about it ("" when all is well)."""

    name: str
    state: State
    said: str
    todo: str = ""

    def as_json(self) -> Mapping[str, Any]:
        return asdict(self)


def ok(name: str, said: str) -> Check:
    return Check(name, "ok", said)


def warning(name: str, said: str, todo: str) -> Check:
    return Check(name, "warning", said, todo)


def failed(name: str, said: str, todo: str) -> Check:
    return Check(name, "failed", said, todo)
