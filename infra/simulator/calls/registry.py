"""The calls that the simulator answers: each a function with a name, a role and typed parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.simulator.failures import Failure
from infra.simulator.schema import FIELDS
from infra.simulator.state import State

ROLES = ("read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator", "pool-admin")
"""Each role may do all that those before it may."""


@dataclass(frozen=True)
class Context:
    """Who calls, on which host, as which task."""

    state: State
    host: str
    session: str
    task: str
    method: str


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def accept(self, value: Any) -> Any:
        """The value in Python's type; XAPI takes ints also as text, and nothing else in another's place."""
        if self.type == "int" and not isinstance(value, bool):
            try:
                return int(value)
            except (TypeError, ValueError):
                pass
        elif self.type == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        elif self.type == "Any" or isinstance(value, _TYPES.get(self.type, ())):
            return value
        raise Failure("INTERNAL_ERROR", f"parameter {self.name}: expected {self.type}")


def record_argument(cls: str, args: dict[str, Any]) -> dict[str, Any]:
    """A record given by a caller, in Python's types; unknown fields are ignored. Raises Failure."""
    return {
        name: Parameter(name, type(FIELDS[cls][name]).__name__).accept(value)
        for name, value in args.items()
        if name in FIELDS[cls]
    }


_TYPES: dict[str, type] = {"str": str, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Call:
    method: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    role: str
    asynchronous: bool
    needs_session: bool = True

    def bind(self, params: Sequence[Any]) -> list[Any]:
        """The arguments after the session. Raises Failure for the wrong number or type."""
        required = sum(parameter.required for parameter in self.parameters)
        if not required <= len(params) <= len(self.parameters):
            raise Failure(
                "MESSAGE_PARAMETER_COUNT_MISMATCH", self.method, str(len(self.parameters)), str(len(params))
            )
        values = [parameter.accept(value) for parameter, value in zip(self.parameters, params, strict=False)]
        return values + [parameter.default for parameter in self.parameters[len(params) :]]


_CALLS: dict[str, Call] = {}


def call(
    method: str, role: str, *, asynchronous: bool = False, needs_session: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers `function(context, …)`; its annotations are the parameters' types."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _CALLS[method] = Call(
            method, function, parameters_of(function), role, asynchronous, needs_session=needs_session
        )
        return function

    return register


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    found = list(inspect.signature(function).parameters.values())[1:]
    return tuple(Parameter(one.name, str(one.annotation).partition("[")[0], one.default) for one in found)


def registered(method: str) -> Call | None:
    return _CALLS.get(method)


def registered_methods() -> list[str]:
    return sorted(_CALLS)
