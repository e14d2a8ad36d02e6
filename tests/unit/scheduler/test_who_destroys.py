"""Only destruction.py asks a pool to destroy: what is proved there is proved for all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.source_tree import ROOT

DESTROYS = re.compile(
    r"(VM|VDI|VBD|SR|PBD)\.(destroy|data_destroy|unplug|unplug_force|revert|forget|db_forget)"
)
ONLY_THERE = Path("scheduler/pool_objects/destruction.py")
NAMED_ONLY = Path("scheduler/checks/role.py")
"""Asks which of them the session's role may do."""


def test_nothing_but_destruction_names_a_call_that_destroys() -> None:
    found: dict[Path, set[str]] = {}
    for part in ("scheduler", "workers"):
        for path in sorted((ROOT / part).rglob("*.py")):
            names = _texts(path.read_text(encoding="utf-8"))
            if names:
                found[path.relative_to(ROOT)] = names
    assert set(found) == {ONLY_THERE, NAMED_ONLY}
    assert found[ONLY_THERE] == {"VM.destroy", "VDI.destroy", "VDI.data_destroy", "VBD.unplug", "VBD.destroy"}


def test_role_py_only_names_them() -> None:
    tree = ast.parse((ROOT / NAMED_ONLY).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = {text for call in calls for argument in call.args for text in _texts(ast.unparse(argument))}
    assert not asked


def _texts(source: str) -> set[str]:
    """Texts that are the name of such a call, as a whole: none of the prose, and of a name that is put
    together its end."""
    texts = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in texts if DESTROYS.fullmatch(text) or re.fullmatch(r"\.(data_)?destroy", text)}
