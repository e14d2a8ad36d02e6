"""A worker whose machine also restores: its processes know no key that reads backups. Real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.worker_site import WorkerSite, children_of

PASSPHRASE = "correct horse battery staple"
FORBIDDEN = ("private_key_file", "metadata_key_file", "passphrase_file")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WorkerSite]:
    site = WorkerSite(tmp_path, batches=1)
    yield site
    site.close()


def test_its_stream_processes_have_neither_keys_nor_passphrase(site: WorkerSite) -> None:
    (site.folder / "private.key").write_text("here, but not for the worker")
    told = site.folder / "told"
    names = {f"CBTFLEET_REPOSITORY__{name.upper()}": str(site.folder / "private.key") for name in FORBIDDEN}
    environment = {**names, "CBTFLEET_PASSPHRASE": PASSPHRASE}
    node = site.start_node(2, ("tests.telling_node", str(told)), environment)
    site.wait_until(site.ledger.nodes)
    site.wait_until(lambda: told.exists() and told.read_text().count("\n") == 3)
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    assert {row["process"] for row in rows} == set(children_of(node))
    for row in rows:
        assert set(row["repository"]) & {*FORBIDDEN, "url"} == {"url"}
        assert "CBTFLEET_PASSPHRASE" not in row["environment"]
    assert "names a private key file that exists here; the worker does not open it" in site.log()
    for process in (node.pid, *children_of(node)):
        shown = Path(f"/proc/{process}/environ").read_bytes()
        assert b"PYTHONPATH=" in shown
        assert PASSPHRASE.encode() not in shown


def test_cbtfleet_worker_has_it_no_longer(site: WorkerSite) -> None:
    node = site.start_node(1, ("scheduler.cli", "worker"), {"CBTFLEET_PASSPHRASE": PASSPHRASE})
    site.wait_until(site.ledger.nodes)
    for process in (node.pid, *children_of(node)):
        shown = Path(f"/proc/{process}/environ").read_bytes()
        assert b"PYTHONPATH=" in shown
        assert PASSPHRASE.encode() not in shown
