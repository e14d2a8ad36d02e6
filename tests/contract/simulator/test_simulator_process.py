"""The simulator as a process of its own: one line when ready, a control interface, a prompt end."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "infra.simulator", "--vms", "1", "--disk-size", "4MiB"]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pool")
    arguments = [*COMMAND, "--hosts", "2", "--seed", "7", "--folder", str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.terminate()


def ask(ready: dict[str, Any], path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(ready["control"] + path, data)) as answer:
        raw = answer.read()
        return json.loads(raw) if answer.headers["Content-Type"] == "application/json" else raw


def test_what_it_prints(ready: dict[str, Any]) -> None:
    assert ready["url"].startswith("https://127.0.1.1:")
    assert [host["address"] for host in ready["hosts"]] == ["127.0.1.1", "127.0.1.2"]
    assert [disk["size"] for disk in ready["vms"][0]["disks"]] == [4 << 20, 4 << 20]
    assert Path(ready["password_file"]).stat().st_mode & 0o777 == 0o600
    assert len(ready["certificate_sha256"]) == 64
    assert ask(ready, "/pool")["url"] == ready["url"]


def test_guest_writes_and_contents(ready: dict[str, Any]) -> None:
    vdi = ready["vms"][0]["disks"][0]["vdi"]
    assert ask(ready, "/write", {"vdi": vdi, "offset": 65535, "data_hex": "0102"}) == {"blocks": [0, 1]}
    assert ask(ready, f"/content?vdi={vdi}")[65535:65537] == b"\x01\x02"
    random = {"vdi": vdi, "random": {"seed": 3, "blocks": 5, "kind": "random"}}
    blocks = ask(ready, "/write", random)["blocks"]
    assert len(blocks) == 5
    assert ask(ready, "/write", random)["blocks"] == blocks
    content = ask(ready, f"/content?vdi={vdi}")
    assert ask(ready, f"/sha256?vdi={vdi}")["sha256"] == hashlib.sha256(content).hexdigest()
    ask(ready, "/resize", {"vdi": vdi, "size": 5 << 20})
    assert len(ask(ready, f"/content?vdi={vdi}")) == 5 << 20


def test_vms_faults_hosts_and_logs(ready: dict[str, Any]) -> None:
    made = ask(ready, "/vms", {"name": "new", "tags": ["x"], "disks": [{"size": 65536, "fill": "zero"}]})
    assert ask(ready, f"/content?vdi={made['disks'][0]['vdi']}") == bytes(65536)
    ask(ready, "/fault", {"nbd": "stall", "count": 3})
    assert ask(ready, "/faults")["rules"][0]["count"] == 3
    ask(ready, "/fault/clear", {})
    assert ask(ready, "/faults")["rules"] == []
    for state in ("down", "up"):
        ask(ready, "/host", {"host": ready["hosts"][1]["uuid"], "state": state})
    ask(ready, "/purpose", {"purpose": None})
    ask(ready, "/log/clear", {})
    assert ask(ready, "/log")["connections"] == []
    assert ask(ready, "/leftovers")["vm_snapshots"] == []
    assert "POST /fault" in ask(ready, "/")["actions"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nowhere", None, 404),
        ("/content?vdi=none", None, 404),
        ("/write", {"vdi": "none"}, 400),
        ("/fault", {"nbd": "explode"}, 400),
        ("/vms", {"name": "x", "colour": "red"}, 400),
    ],
)
def test_what_it_does_not_understand(ready: dict[str, Any], path: str, body: Any, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(ready, path, body)
    with caught.value:
        assert caught.value.code == status
        assert json.loads(caught.value.read())["error"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_promptly_and_leaves_nothing(how: signal.Signals) -> None:
    with subprocess.Popen([*COMMAND, "--hosts", "1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        started = time.monotonic()
        process.send_signal(how)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 3
    assert not Path(ready["ca_file"]).exists()


def test_the_seed_decides(ready: dict[str, Any]) -> None:
    arguments = [*COMMAND, "--hosts", "2", "--seed", "7"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        again = json.loads(process.stdout.readline())
        process.terminate()
    assert again["vms"] == ready["vms"]
