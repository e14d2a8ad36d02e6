"""Logging in and out, and what becomes of sessions that are too old or too many."""

from __future__ import annotations

import hmac
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta

from infra.simulator.calls.registry import ROLES, Context, call, registered, registered_methods
from infra.simulator.failures import Failure
from infra.simulator.schema import SETTABLE
from infra.simulator.state import State

_REFRESH = timedelta(minutes=10)
_TOO_OLD = timedelta(hours=24)
_ANONYMOUS_LIMIT, _GROUP_LIMIT = 400, 500


@call("session.login_with_password", "read-only", needs_session=False)
def login_with_password(
    context: Context, uname: str, pwd: str, version: str = "1.1", originator: str = ""
) -> str:
    state = context.state
    user = state.users.get(uname)
    if user is None or not hmac.compare_digest(user.password.encode(), pwd.encode()):
        state.pause(state.spec.timing.login_failure_delay)
        raise Failure("SESSION_AUTHENTICATION_FAILED", uname, "Authentication failure")
    return open_session(state, context.host, uname, originator)


@call("session.slave_local_login_with_password", "read-only", needs_session=False)
def slave_local_login_with_password(context: Context, uname: str, pwd: str) -> str:
    return str(login_with_password(context, uname, pwd))


@call("session.logout", "read-only")
def logout(context: Context) -> None:
    context.state.database.delete("session", context.session)


def open_session(state: State, host: str, user: str, originator: str) -> str:
    """Session references are credentials, so they never follow from the seed."""
    ref = f"OpaqueRef:{uuid.uuid4()}"
    now = state.now()
    state.database.insert(
        "session",
        ref,
        {
            "uuid": str(uuid.uuid4()),
            "this_host": host,
            "last_active": now,
            "validation_time": now,
            "auth_user_name": user,
            "auth_user_sid": f"sid-{user}",
            "originator": originator,
            "pool": False,
            "is_local_superuser": state.users[user].role == "pool-admin",
            "rbac_permissions": []
            if state.users[user].role == "pool-admin"
            else permissions(state.users[user].role),
        },
    )
    return ref


def permissions(role: str) -> list[str]:
    """What XAPI writes into the session of a user who is not root: each call that the role may make."""
    needed = {method: found.role for method in registered_methods() if (found := registered(method))}
    for cls, fields in SETTABLE.items():
        for field, least in fields.items():
            needed |= {f"{cls}.{verb}_{field}": least for verb in ("set", "add_to", "remove_from")}
    return sorted(name.lower() for name, least in needed.items() if ROLES.index(least) <= ROLES.index(role))


def check_session(state: State, ref: object) -> str:
    """The session, which counts as used now. Raises Failure SESSION_INVALID."""
    if not isinstance(ref, str) or not state.database.exists("session", ref):
        raise Failure("SESSION_INVALID", str(ref))
    session = state.database.get("session", ref)
    if state.now() - session["last_active"] >= _REFRESH:
        state.database.update("session", ref, last_active=state.now())
    return ref


def check_role(state: State, session: str, method: str, role: str) -> None:
    """Raises Failure RBAC_PERMISSION_DENIED."""
    user = state.users[state.database.get("session", session)["auth_user_name"]]
    if ROLES.index(user.role) < ROLES.index(role):
        raise Failure(
            "RBAC_PERMISSION_DENIED", method.lower(), f"No permission in user session. (Roles: {user.role})"
        )


def collect_sessions(state: State) -> None:
    """What xapi does every 30 s: old sessions go, and beyond the limits those least recently used."""
    database = state.database
    busy = {ref for ref in database.refs("session") if has_pending_task(state, ref)}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for ref in database.refs("session"):
        session = database.get("session", ref)
        if ref in busy:
            continue
        if state.now() - session["last_active"] > _TOO_OLD:
            database.delete("session", ref)
        elif session["is_local_superuser"]:
            groups["originator", session["originator"]].append(ref)
        else:
            groups["user", session["auth_user_name"]].append(ref)
    last_used: Callable[[str], object] = lambda ref: database.get("session", ref)["last_active"]  # noqa: E731
    for group, refs in groups.items():
        limit = _ANONYMOUS_LIMIT if group == ("originator", "") else _GROUP_LIMIT
        refs.sort(key=last_used)  # type: ignore[arg-type]
        for ref in refs[: max(0, len(refs) - limit)]:
            database.delete("session", ref)


def has_pending_task(state: State, session: str) -> bool:
    tasks = state.database.get("session", session)["tasks"]
    return any(
        state.database.exists("task", task) and state.database.get("task", task)["status"] == "pending"
        for task in tasks
    )
