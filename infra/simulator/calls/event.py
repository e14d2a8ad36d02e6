"""event.from: what changed since a token, or everything there is."""

from __future__ import annotations

import re
from typing import Any

from infra.simulator.calls.registry import Context, call
from infra.simulator.calls.session import check_session
from infra.simulator.failures import Failure
from infra.simulator.schema import CANONICAL, FIELDS, NO_LISTING
from infra.simulator.xmlrpc_wire import TaggedInt

_TOKEN = re.compile(r"\d{20},\d{20}")


@call("event.from", "read-only")
def event_from(context: Context, classes: list, token: str, timeout: float) -> dict[str, Any]:  # type: ignore[type-arg]
    """Waits until something of interest changed or the time is up (then: no events). A logout wakes it."""
    if token and not _TOKEN.fullmatch(token):
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    state, database = context.state, context.state.database
    since = int(token.partition(",")[0]) if token else 0
    wanted = [_subscription(str(cls)) for cls in classes]

    def events() -> list[dict[str, Any]]:
        check_session(state, context.session)
        return _events(context, since, wanted)

    if token:
        state.wait_for(lambda: bool(events()), timeout)
    number = len(database.journal)
    return {
        "events": events(),
        "valid_ref_counts": {
            cls.lower(): TaggedInt(len(database.refs(cls))) for cls in FIELDS if cls not in NO_LISTING
        },
        "token": f"{number:020d},{number:020d}",
    }


def _subscription(text: str) -> tuple[str, str]:
    """(class, ref); "*" stands for all."""
    cls, _, ref = text.partition("/")
    if cls == "*":
        return "*", "*"
    if cls.lower() not in CANONICAL:
        raise Failure("EVENT_SUBSCRIPTION_PARSE_FAILURE", text)
    return CANONICAL[cls.lower()], ref or "*"


def _events(context: Context, since: int, wanted: list[tuple[str, str]]) -> list[dict[str, Any]]:
    database = context.state.database
    latest: dict[tuple[str, str], tuple[int, bool]] = {}
    for change in database.journal[since:]:
        if change.cls in NO_LISTING:
            continue
        if not any(cls in ("*", change.cls) and ref in ("*", change.ref) for cls, ref in wanted):
            continue
        key = (change.cls, change.ref)
        added = change.operation == "add" or (key in latest and latest[key][1])
        latest[key] = (change.number, added)
    events = []
    for (cls, ref), (number, added) in sorted(latest.items(), key=lambda item: item[1][0]):
        exists = database.exists(cls, ref)
        if not exists and (added or since == 0):
            continue
        event: dict[str, Any] = {
            "id": str(number),
            "timestamp": "0.0",
            "class": cls.lower(),
            "operation": "del" if not exists else "add" if added else "mod",
            "ref": ref,
        }
        if exists:
            event["snapshot"] = database.view(cls, ref)
        events.append(event)
    return events
