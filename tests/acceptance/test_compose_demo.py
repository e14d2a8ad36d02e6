"""The set-up program of the compose demo, without containers: simulator, S3 API and Redis on loopback."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.usefixtures("s3_bucket")  # for its credentials
def test_the_demo_is_set_up_and_the_doctor_finds_it_well(
    tmp_path: Path, redis_url: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "infra/compose"))
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    (tmp_path / "secrets").mkdir()
    shutil.copy(ROOT / "infra/compose/make-secrets.sh", tmp_path)
    subprocess.run(["sh", str(tmp_path / "make-secrets.sh")], check=True)
    places = (redis_url, s3_endpoint, None, tmp_path / "secrets", ROOT / "infra/store-policies/aws")
    simulator = [sys.executable, "-m", "infra.simulator", "--hosts", "2", "--vms", "1", "--disks", "1"]
    simulator += ["--disk-size", "4MiB", "--folder", str(tmp_path)]
    with subprocess.Popen(simulator, cwd=ROOT, stdout=subprocess.PIPE, text=True) as pool:
        try:
            assert pool.stdout is not None
            (tmp_path / "pool.json").write_text(pool.stdout.readline())
            demo_init = importlib.import_module("demo_init")
            configuration = demo_init.set_up(tmp_path, *places)
            doctor = ["cbtfleet", "doctor", "--json", "--config", str(configuration)]
            found = subprocess.run(doctor, cwd=tmp_path, capture_output=True, text=True)
            keys = {path.name: path.read_bytes() for path in tmp_path.glob("*.key")}
            demo_init.set_up(tmp_path, *places)  # as after a restart: everything stays
        finally:
            pool.terminate()
    assert found.returncode == 0, found.stdout + found.stderr
    assert not [check for check in json.loads(found.stdout)["checks"] if check["state"] == "failed"]
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    policy = json.loads(client.get_bucket_policy(Bucket="demo")["Policy"])
    client.close()
    worker = (tmp_path / "secrets/s3_worker").read_text().split()[3]
    assert [(each["Action"], each["Resource"]) for each in policy["Statement"] if worker in str(each)] == [
        ("s3:PutObject", "arn:aws:s3:::demo/packs/*"),
        ("s3:GetObject", ["arn:aws:s3:::demo/config", "arn:aws:s3:::demo/known/*"]),
    ]
    assert set(keys) == {"public.key", "metadata.key", "private.key"}
    assert keys == {path.name: path.read_bytes() for path in tmp_path.glob("*.key")}
