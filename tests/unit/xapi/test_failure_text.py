"""What a person reads when a pool says no."""

from __future__ import annotations

import pytest

from workers.xenapi.errors import XapiFailure
from workers.xenapi.meanings import failure_text, needed_role, redact

REF = "OpaqueRef:1b2c3d4e-0000-1111-2222-333344445555"


@pytest.mark.parametrize(
    ("code", "params", "expected"),
    [
        ("VDI_IN_USE", [REF, "data_destroy"], "or a host has not let go of it yet"),
        ("VDI_IN_USE", [], "(VDI_IN_USE)"),
        ("VDI_INCOMPATIBLE_TYPE", [REF, "CBT metadata"], "a metadata-only snapshot has no data"),
        ("LICENCE_RESTRICTION", ["CBT"], "licence does not include this"),
        (
            "OTHER_OPERATION_IN_PROGRESS",
            ["SR", REF, "VDI.snapshot", REF],
            "another operation, VDI.snapshot, holds the SR",
        ),
        ("SR_BACKEND_FAILURE_459", ["", "Inconsistent bitmaps", ""], "has to be a full one"),
        ("SR_BACKEND_FAILURE_460", ["", "unrelated", ""], "has to be a full one"),
        ("HANDLE_INVALID", ["VDI", REF], "the object is gone"),
        ("HOST_OFFLINE", [REF], "a host of the pool is offline"),
        ("TOO_MANY_PENDING_TASKS", [], "try again later"),
        ("NOBODY_KNOWS_THIS", ["a", "b"], "VDI.do failed: NOBODY_KNOWS_THIS: a, b"),
        ("Fault", ["No async mode for this operation"], "cannot run as a task"),
        ("Fault", ["something else"], "VDI.do failed: Fault: something else"),
    ],
)
def test_known_codes_say_what_to_do(code: str, params: list[str], expected: str) -> None:
    text = failure_text(code, params, "VDI.do", "lab")
    assert text.startswith("pool lab: VDI.do failed: ")
    assert expected in text
    assert code in text
    assert "OpaqueRef" not in text


@pytest.mark.parametrize(
    ("method", "role"),
    [
        ("vdi.list_changed_blocks", "vm-operator"),
        ("VM.snapshot", "vm-power-admin"),
        ("Async.VM.snapshot", "vm-power-admin"),
        ("vdi.data_destroy", "vm-admin"),
        ("network.add_purpose", "pool-admin"),
        ("vdi.get_record", "read-only"),
        ("vdi.get_nbd_info", "vm-admin"),
        ("host.get_server_certificate", "read-only"),
    ],
)
def test_a_denied_call_names_the_role_it_needs(method: str, role: str) -> None:
    assert needed_role(method) == role
    text = str(XapiFailure("RBAC_PERMISSION_DENIED", [method, "No permission"], "VDI.x", "lab"))
    assert f"may not call {method}; it needs the role {role}" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {REF} b", "a <ref> b"),
        (f"/vdi?session_id={REF}", "/vdi?session_id=<hidden>"),
        (f"/vdi?session_id={REF}&x=1", "/vdi?session_id=<hidden>&x=1"),
        ("/vdi?session_id=OpaqueRef%3A1b2c-3", "/vdi?session_id=<hidden>"),
        ("OpaqueRef%3a1b2c-3!", "<ref>!"),
        ("several\nlines\tof  it", "several lines of it"),
    ],
)
def test_references_are_never_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_long_stderr_stays_one_line() -> None:
    text = failure_text("SR_BACKEND_FAILURE_202", ["", "General backend error", "x\n" * 5000], "VM.snapshot")
    assert "\n" not in text
    assert len(text) < 400
