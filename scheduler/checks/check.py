"""One thing looked at, and what a person should do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """`said` is what was found, `todo` what to do about it ("" when all is well).

    `subject` is what it belongs to, as a heading ("pool lab"); `name` says what was looked at and stays the
    same from version to version; `about` is which host, storage or disk, "" where there is but one thing.
    """

    subject: str
    name: str
    state: State
    said: str
    todo: str = ""
    about: str = ""

    def as_json(self) -> Mapping[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """Makes the Checks of one heading."""

    title: str

    def ok(self, name: str, said: str, about: str = "") -> Check:
        return Check(self.title, name, "ok", said, "", about)

    def warning(self, name: str, said: str, todo: str, about: str = "") -> Check:
        return Check(self.title, name, "warning", said, todo, about)

    def failed(self, name: str, said: str, todo: str, about: str = "") -> Check:
        return Check(self.title, name, "failed", said, todo, about)


def counted(number: int, one: str, many: str | None = None) -> str:
    """`3 disks`"""
    return f"{number} {one if number == 1 else many or one + 's'}"
