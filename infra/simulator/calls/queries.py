"""get_all_records_where: `field "SR"="OpaqueRef:…" and not (field "type"="user")`; equality alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from infra.simulator.failures import Failure

Record = Mapping[str, Any]
Test = Callable[[Record], bool]

_TOKENS = re.compile(r'\s*(?:(field|and|or|not|true|false)\b|"([^"]*)"|([=()]))')


def compile_query(text: str, fields: Mapping[str, Any]) -> Test:
    """A test of records. Raises Failure INVALID_VALUE for anything it does not understand."""
    tokens, position = [], 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _TOKENS.match(stripped, position)
        if match is None:
            raise _bad(text)
        word, literal, sign = match.groups()
        tokens.append(("text", literal) if literal is not None else ("sign", word or sign))
        position = match.end()
    parser = _Parser(text, tokens, fields)
    test = parser.either()
    if parser.tokens:
        raise _bad(text)
    return test


class _Parser:
    """Recursive descent: either > both > one."""

    def __init__(self, text: str, tokens: list[tuple[str, str]], fields: Mapping[str, Any]) -> None:
        self.text, self.tokens, self.fields = text, tokens, fields

    def either(self) -> Test:
        tests = [self.both()]
        while self._skip("or"):
            tests.append(self.both())
        return lambda record: any(test(record) for test in tests)

    def both(self) -> Test:
        tests = [self.one()]
        while self._skip("and"):
            tests.append(self.one())
        return lambda record: all(test(record) for test in tests)

    def one(self) -> Test:
        if self._skip("not"):
            inner = self.one()
            return lambda record: not inner(record)
        if self._skip("("):
            inner = self.either()
            self._expect(")")
            return inner
        if self._skip("true"):
            return lambda record: True
        if self._skip("false"):
            return lambda record: False
        left_is_field, left = self._operand()
        self._expect("=")
        right_is_field, right = self._operand()
        return lambda record: _value(record, left_is_field, left) == _value(record, right_is_field, right)

    def _operand(self) -> tuple[bool, str]:
        is_field = self._skip("field")
        if not self.tokens or self.tokens[0][0] != "text":
            raise _bad(self.text)
        name = self.tokens.pop(0)[1]
        if not is_field:
            return False, name
        # The database's own names: name__label is the API's name_label, and not the other way about.
        api_name = name.replace("__", "_")
        if api_name not in self.fields or (name == api_name and name.startswith("name_")):
            raise _bad(self.text)
        return True, api_name

    def _skip(self, sign: str) -> bool:
        if self.tokens and self.tokens[0] == ("sign", sign):
            self.tokens.pop(0)
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise _bad(self.text)


def _value(record: Record, is_field: bool, text: str) -> str:
    if not is_field:
        return text
    value = record[text]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bad(text: str) -> Failure:
    return Failure("INVALID_VALUE", "expr", text)
