"""The calls that every class has, made from the table of fields: getters, listings, setters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from infra.simulator.calls.queries import compile_query
from infra.simulator.calls.registry import Call, Context, parameters_of
from infra.simulator.failures import Failure
from infra.simulator.schema import FIELDS, NO_LISTING, SETTABLE

Function = Callable[..., Any]


@functools.cache
def generic_call(method: str) -> Call | None:
    """The call behind a name such as `VDI.get_uuid` or `VM.add_to_other_config`; None when there is none."""
    cls, _, name = method.partition(".")
    if cls not in FIELDS:
        return None
    getter = _getter(cls, name)
    if getter is not None:
        return Call(method, getter, parameters_of(getter), "read-only", asynchronous=False)
    found = _setter(cls, name)
    if found is None:
        return None
    field, setter = found
    return Call(method, setter, parameters_of(setter), SETTABLE[cls][field], asynchronous=False)


def _getter(cls: str, name: str) -> Function | None:
    fixed = {"get_record": _get_record, "get_by_uuid": _get_by_uuid}
    if cls not in NO_LISTING:
        fixed |= {
            "get_all": _get_all,
            "get_all_records": _get_all_records,
            "get_all_records_where": _get_all_records_where,
        }
    if "name_label" in FIELDS[cls]:
        fixed["get_by_name_label"] = _get_by_name_label
    if name in fixed:
        return fixed[name](cls)
    field = name.removeprefix("get_")
    return _get_field(cls, field) if name != field and field in FIELDS[cls] else None


def _setter(cls: str, name: str) -> tuple[str, Function] | None:
    for prefix, make in (
        ("set_", _set_field),
        ("add_to_", _add_to_map),
        ("remove_from_", _remove_from_map),
        ("add_", _add_to_set),
        ("remove_", _remove_from_set),
    ):
        field = name.removeprefix(prefix)
        if name == field or field not in SETTABLE.get(cls, {}):
            continue
        kind = type(FIELDS[cls][field])
        if (prefix in {"add_to_", "remove_from_"}) != (kind is dict) and prefix != "set_":
            continue
        if prefix in {"add_", "remove_"} and kind is not list:
            continue
        return field, make(cls, field)
    return None


def _get_record(cls: str) -> Function:
    def get_record(context: Context, self: str) -> dict[str, Any]:
        return context.state.database.view(cls, self)

    return get_record


def _get_by_uuid(cls: str) -> Function:
    def get_by_uuid(context: Context, uuid: str) -> str:
        return context.state.database.by_uuid(cls, uuid)

    return get_by_uuid


def _get_by_name_label(cls: str) -> Function:
    def get_by_name_label(context: Context, label: str) -> list[str]:
        return context.state.database.find(cls, name_label=label)

    return get_by_name_label


def _get_all(cls: str) -> Function:
    def get_all(context: Context) -> list[str]:
        return context.state.database.refs(cls)

    return get_all


def _get_all_records(cls: str) -> Function:
    def get_all_records(context: Context) -> dict[str, Any]:
        database = context.state.database
        return {ref: database.view(cls, ref) for ref in database.refs(cls)}

    return get_all_records


def _get_all_records_where(cls: str) -> Function:
    def get_all_records_where(context: Context, expr: str) -> dict[str, Any]:
        matches = compile_query(expr, FIELDS[cls])
        database = context.state.database
        records = {ref: database.view(cls, ref) for ref in database.refs(cls)}
        return {ref: record for ref, record in records.items() if matches(record)}

    return get_all_records_where


def _get_field(cls: str, field: str) -> Function:
    def get_field(context: Context, self: str) -> Any:
        return context.state.database.view(cls, self)[field]

    return get_field


def _set_field(cls: str, field: str) -> Function:
    def set_field(context: Context, self: str, value: Any) -> None:
        if not isinstance(value, type(FIELDS[cls][field])):
            raise Failure("INTERNAL_ERROR", f"field {field} of the wrong type")
        context.state.database.update(cls, self, **{field: value})

    return set_field


def _add_to_map(cls: str, field: str) -> Function:
    def add_to_map(context: Context, self: str, key: str, value: str) -> None:
        record = context.state.database.get(cls, self)
        if key in record[field]:
            raise Failure("MAP_DUPLICATE_KEY", cls, field, record["uuid"], key)
        context.state.database.update(cls, self, **{field: {**record[field], key: value}})

    return add_to_map


def _remove_from_map(cls: str, field: str) -> Function:
    def remove_from_map(context: Context, self: str, key: str) -> None:
        held = context.state.database.get(cls, self)[field]
        left = {name: value for name, value in held.items() if name != key}
        context.state.database.update(cls, self, **{field: left})

    return remove_from_map


def _add_to_set(cls: str, field: str) -> Function:
    def add_to_set(context: Context, self: str, value: str) -> None:
        held = context.state.database.get(cls, self)[field]
        if value not in held:
            context.state.database.update(cls, self, **{field: [*held, value]})

    return add_to_set


def _remove_from_set(cls: str, field: str) -> Function:
    def remove_from_set(context: Context, self: str, value: str) -> None:
        held = context.state.database.get(cls, self)[field]
        context.state.database.update(cls, self, **{field: [one for one in held if one != value]})

    return remove_from_set
