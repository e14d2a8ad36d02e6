"""The documents of infra/store-policies: each kind of object has one writer, who cannot replace it at AWS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.store_roles import DOCUMENTS, ROLES, bucket_policy

PLACE = "arn:aws:s3:::BUCKET/PREFIX/"
BY_A_PERSON = {"config", "keys", "workers"}
"""Kinds that no role puts: the bucket's owner does, when the repository or a key is made."""


def statements(store: str, role: str) -> list[dict[str, Any]]:
    return list(json.loads((DOCUMENTS / store / f"{role}.json").read_text())["Statement"])


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def patterns(role: str, action: str) -> Iterator[str]:
    """Below the repository's place, of what AWS's document allows."""
    for statement in statements("aws", role):
        if action in listed(statement["Action"]):
            yield from (each.removeprefix(PLACE) for each in listed(statement["Resource"]))


def may(role: str, action: str, key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns(role, action))


def kinds() -> set[str]:
    page = (Path(__file__).parents[2] / "docs/format.md").read_text(encoding="utf-8")
    table = page.partition("\n## 2. Objects\n")[2].partition("\n## ")[0]
    found = set(re.findall(r"^\| `([^/`]+)", table, re.MULTILINE))
    assert {"config", "packs", "points", "runs"} <= found
    return found


def test_each_kind_of_object_has_one_writer_and_its_readers() -> None:
    for kind in kinds():
        key = kind if kind == "config" else f"{kind}/a/b/c"
        writers = {role for role in ROLES if may(role, "s3:PutObject", key)}
        assert writers == (
            set() if kind in BY_A_PERSON else {"worker"} if kind == "packs" else {"scheduler"}
        ), kind
        readers = {role for role in ROLES if may(role, "s3:GetObject", key)}
        assert readers == set(ROLES) - (set() if kind in ("config", "known") else {"worker"}), kind


@pytest.mark.parametrize(
    ("key", "roles"),
    [
        ("config", set()),
        ("packs/d/r/00000000-ab", {"prune"}),
        ("segments/d/r/00000000", {"prune"}),
        ("points/v/p", {"scheduler", "prune"}),
        ("runs/r/open", {"scheduler", "prune"}),
        ("runs/r/vms/v", {"scheduler", "prune"}),
        ("runs/r/result", {"prune"}),
        ("known/r/d/00000000", {"scheduler", "prune"}),
        ("probe-0", {"scheduler"}),
    ],
)
def test_who_deletes(key: str, roles: set[str]) -> None:
    assert {role for role in ROLES if may(role, "s3:DeleteObject", key)} == roles
    older = {role for role in ROLES if may(role, "s3:DeleteObjectVersion", key)}
    assert older == roles - {"scheduler"}


@pytest.mark.parametrize("role", ROLES)
def test_aws_lets_nobody_put_over_an_object(role: str) -> None:
    for statement in statements("aws", role):
        puts = "s3:PutObject" in listed(statement["Action"])
        assert statement.get("Condition") == ({"Null": {"s3:if-none-match": "false"}} if puts else None)
        assert statement["Effect"] == "Allow"
        assert "*" not in listed(statement["Action"])


@pytest.mark.parametrize("role", ROLES)
def test_cephs_documents_allow_what_those_for_aws_do(role: str) -> None:
    """But for the condition, which Ceph does not know; a worker is denied what it would have as an owner."""
    allowed = []
    for statement in statements("ceph", role):
        assert statement["Principal"] == {"AWS": [f"arn:aws:iam:::user/cbtfleet-{role}"]}
        if statement["Effect"] == "Allow":
            allowed.append((statement["Action"], statement["Resource"]))
        else:
            assert role == "worker"
    assert allowed == [(each["Action"], each["Resource"]) for each in statements("aws", role)]


def test_together_they_are_one_policy() -> None:
    joined = json.loads(bucket_policy("backups", "prod"))["Statement"]
    assert "BUCKET" not in str(joined)
    assert "PREFIX" not in str(joined)
    names = [statement["Sid"] for statement in joined]
    assert len(set(names)) == len(names) == sum(len(statements("ceph", role)) for role in ROLES)
