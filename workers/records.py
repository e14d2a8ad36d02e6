"""Records: frozen values that one process writes as JSON and another reads, perhaps of another version.

A record class lists every member and its type. Reading checks all of them, also of the values within: what
is missing, unknown or of the wrong type is one line, and never a KeyError in the middle of a step. A member
with a default may be missing: the record was written before there was such a member. A value that has
rules of its own, as those of the configuration and of restore points, is read by these.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from workers.errors import CbtfleetError

_LONGEST_NAME = 100


class RecordUnreadable(CbtfleetError):
    """What should be a record is none, or one of a version that this program does not know."""


class RecordUnwritable(CbtfleetError):
    """A text in a record cannot be written as JSON."""


@dataclass(frozen=True)
class Record:
    """The base of a record. A change that older programs would misread gets another `version`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    version: Literal[1] = field(default=1, kw_only=True, repr=False)

    def write(self) -> bytes:
        """The record as JSON. Raises RecordUnwritable: a name from a command line may be no Unicode."""
        try:
            return _adapter(type(self)).dump_json(self)  # type: ignore[arg-type]
        except PydanticSerializationError as error:
            raise RecordUnwritable("a name or another text is not valid Unicode; correct it") from error

    @classmethod
    def read(cls, data: bytes, where: str) -> Self:
        """What `write` wrote. Raises RecordUnreadable, which begins with `where`: "run 2026… in Redis"."""
        try:
            record: Self = _adapter(cls).validate_json(data)  # type: ignore[arg-type]
        except ValidationError as error:
            raise RecordUnreadable(f"{where}: {_problem(error)}") from error
        return record

    def members(self) -> dict[str, object]:
        """The members as plain JSON values, without the version: for the output of a command, or a hook."""
        plain = asdict(self)
        del plain["version"]
        return plain


@cache  # mypy takes a class for one of its instances, which may not be hashable
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _problem(error: ValidationError) -> str:
    problems = error.errors(include_input=False, include_url=False)
    if any(problem["loc"][-1:] == ("version",) for problem in problems):  # and so the rest may differ
        return "it was written by another version of cbtfleet; use that one, or upgrade this one"
    problem = problems[0]
    member = _shown(".".join(map(str, problem["loc"])))
    if problem["type"] == "missing":
        return f"{member} is missing"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown member {member}; was it written by a newer version of cbtfleet?"
    if problem["type"] == "json_invalid":
        return "it is not JSON"
    return f"{member}: {problem['msg']}" if member else str(problem["msg"])


def _shown(name: str) -> str:
    """An unknown member may have any name."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[:_LONGEST_NAME]}..."
