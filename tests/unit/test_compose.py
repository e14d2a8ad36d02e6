"""docker-compose.yml and the image, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
import yaml

from tests.conftest import redis_server_binary
from tests.until import until
from workers.settings import load_settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "cbtfleet"]
DOCKERFILE = (ROOT / "infra/images/Dockerfile").read_text()


def environment(service: str) -> dict[str, str]:
    return {**SERVICES[service].get("environment", {})}


@pytest.mark.parametrize("name", SERVICES)
def test_everything_a_service_refers_to_is_there(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    assert set(service.get("networks", [])) <= set(COMPOSE["networks"])
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    assert {each["source"] for each in service.get("configs", [])} <= set(COMPOSE["configs"])
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (source.startswith("./") and (ROOT / source).is_dir())
    shared = service.get("network_mode", "")
    assert not shared or shared.removeprefix("service:") in SERVICES
    assert not (shared and "networks" in service)
    for needed, how in service.get("depends_on", {}).items():
        assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[needed]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert "privileged" not in service
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert not [port for port in service.get("ports", []) if not str(port).startswith("127.0.0.1:")]
    if name in OURS:
        assert service["cap_drop"] == ["ALL"]
        assert not service["user"].removeprefix("${RUN_AS:-").startswith("0")


def test_secrets_are_files_that_git_does_not_take() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("infra/compose/secrets/")
    assert "*" in (ROOT / "infra/compose/secrets/.gitignore").read_text().split()
    for name in SERVICES:
        for key, value in environment(name).items():
            assert not re.search("(?i)password|secret_access|passphrase", key), key
            assert "@" not in value


def test_a_worker_gets_no_key_that_reads_a_backup_and_nobody_the_private_one() -> None:
    assert "metadata_key" not in SERVICES["worker"]["secrets"]
    assert "CBTFLEET_REPOSITORY__METADATA_KEY_FILE" not in environment("worker")
    assert "private_key" not in COMPOSE["secrets"]
    private = [name for name in SERVICES if "CBTFLEET_REPOSITORY__PRIVATE_KEY_FILE" in environment(name)]
    assert private == ["init"]


def test_each_service_has_its_own_credentials_for_the_store() -> None:
    def store_secrets(name: str) -> set[str]:
        return {secret for secret in SERVICES[name].get("secrets", []) if secret.startswith("s3_")}

    every = {"s3_owner", "s3_scheduler", "s3_worker", "s3_restore"}
    for name in SERVICES:
        role = name.removeprefix("demo-")
        assert store_secrets(name) == {"s3": every, "init": every}.get(role, {f"s3_{role}"} & every), name
        if role in ("init", "scheduler", "worker"):
            whose = "owner" if role == "init" else role
            assert environment(name)["AWS_SHARED_CREDENTIALS_FILE"] == f"/run/secrets/s3_{whose}"


def test_the_s3_server_is_told_of_every_user(tmp_path: Path) -> None:
    """Its start, up to the server itself, which is not here: a program that says what it was given."""
    (tmp_path / "secrets").mkdir()
    shutil.copy(ROOT / "infra/compose/make-secrets.sh", tmp_path)
    for _ in range(2):  # again: nothing changes
        subprocess.run(["sh", str(tmp_path / "make-secrets.sh")], check=True)
    server = tmp_path / "versitygw"
    server.write_text('#!/bin/sh\necho "$ROOT_ACCESS_KEY_ID $ROOT_SECRET_ACCESS_KEY $*"\n')
    server.chmod(0o755)
    [script] = SERVICES["s3"]["command"]
    places = {"SECRETS": f"{tmp_path}/secrets", "VGW_IAM_DIR": f"{tmp_path}/iam"}
    done = subprocess.run(
        ["/bin/sh", "-c", script.replace("$$", "$")],
        env={**places, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )

    def of(role: str) -> tuple[str, str]:
        words = (tmp_path / "secrets" / f"s3_{role}").read_text().split()
        return words[3], words[6]

    assert done.stdout.split() == [*of("owner"), "posix", "/data"]
    users = tmp_path / "iam/users.json"
    assert users.stat().st_mode & 0o077 == 0
    accounts = json.loads(users.read_text())["accessAccounts"]
    assert accounts == {
        key_id: {"access": key_id, "secret": secret, "role": "user"}
        for key_id, secret in map(of, ("scheduler", "worker", "restore"))
    }
    assert len({of(role) for role in ("owner", "scheduler", "worker", "restore")}) == 4


def test_redis_keeps_what_it_is_told_and_evicts_nothing() -> None:
    [command] = SERVICES["redis"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert COMPOSE["networks"]["ledger"]["internal"] is True
    assert SERVICES["redis"]["networks"] == ["ledger"]


def test_redis_asks_for_the_password_of_its_secret(tmp_path: Path) -> None:
    """The service's own commands, with the tools of its image replaced by ones that change nothing."""
    secret = tmp_path / "redis_password"
    secret.write_text("s3cret")
    for name, program in {"docker-entrypoint.sh": 'exec "$@"', "chown": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o700)
    (tmp_path / "redis-server").symlink_to(redis_server_binary())
    redis_service = SERVICES["redis"]

    def here(command: str) -> str:
        command = command.replace("$$", "$").replace("/run/secrets/", f"{tmp_path}/")
        return command.replace("/tmp/redis.conf", f"{tmp_path}/redis.conf")

    [command] = redis_service["command"]
    place = f" --port 0 --unixsocket {tmp_path}/sock --dir {tmp_path}"
    environment = {"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"}
    script = [*redis_service["entrypoint"], here(command).rstrip() + place]
    with subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            until(lambda: (tmp_path / "sock").exists())
            assert "s3cret" not in Path(f"/proc/{server.pid}/cmdline").read_text()
            stranger = redis.Redis(unix_socket_path=f"{tmp_path}/sock")
            with closing(stranger), pytest.raises(redis.AuthenticationError):
                stranger.ping()
            with closing(redis.Redis(unix_socket_path=f"{tmp_path}/sock", password="s3cret")) as ours:
                assert ours.ping()
            assert (tmp_path / "redis.conf").stat().st_mode & 0o777 == 0o600
        finally:
            server.terminate()
    assert redis_service["healthcheck"]["test"][0] == "CMD-SHELL"
    assert "redis_password" in redis_service["secrets"]
    for name in OURS:
        if "redis" in str(SERVICES[name].get("depends_on", "")):
            assert "redis_password" in SERVICES[name]["secrets"], name


def test_workers_can_be_many() -> None:
    for name in ("worker", "demo-worker"):
        assert "container_name" not in SERVICES[name]
        assert "ports" not in SERVICES[name]


def test_only_the_demo_has_the_simulator() -> None:
    demo = {name for name in SERVICES if name.startswith("demo-")}
    assert all(SERVICES[name]["profiles"] == ["demo"] for name in demo)
    assert {name for name in SERVICES if "infra.simulator" in str(SERVICES[name])} == {"demo-pool"}
    assert not [name for name in set(SERVICES) - demo if demo & set(SERVICES[name].get("depends_on", {}))]


@pytest.mark.parametrize("name", ["scheduler", "worker", "init"])
def test_the_configuration_in_the_containers_loads(name: str) -> None:
    settings = load_settings(ROOT / COMPOSE["configs"]["cbtfleet"]["file"], environment(name))
    host, port = re.fullmatch(r"redis://(\w+):(\d+)/0", settings.redis_url()).groups()  # type: ignore[union-attr]
    assert (host, port) == ("redis", "6379")
    assert str(settings.redis.password_file) == "/run/secrets/redis_password"
    assert "redis_password" in SERVICES[name]["secrets"]
    assert settings.repository.endpoint_url == "http://s3:7070"
    assert SERVICES["s3"]["environment"]["VGW_PORT"] == ":7070"
    mounted = {f"/run/secrets/{secret}" for secret in SERVICES[name]["secrets"]}
    files = [settings.repository.public_key_file, settings.repository.metadata_key_file]
    if name != "init":  # which writes them
        files += [settings.pools["lab"].password_file, settings.pools["lab"].ca_file]
        assert {str(path) for path in files if path} <= mounted


def test_the_services_run_commands_that_exist() -> None:
    from scheduler.cli import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    called = {
        service["command"][0]
        for name, service in SERVICES.items()
        if name in OURS and "command" in service and "entrypoint" not in service
    }
    assert called == {"scheduler", "worker"}
    assert called <= commands


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_the_health_check_reaches_redis(
    name: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *arguments = SERVICES[name]["healthcheck"]["test"][1:]
    assert command == "python"
    monkeypatch.chdir(ROOT)
    configuration = str(ROOT / COMPOSE["configs"]["cbtfleet"]["file"])
    for url, healthy in ((redis_url, True), (f"unix://{tmp_path}/none", False)):
        password = tmp_path / "password"
        password.write_text("any\n")
        settings = {"CBTFLEET_CONFIG": configuration, "CBTFLEET_REDIS__URL": url}
        settings["CBTFLEET_REDIS__PASSWORD_FILE"] = str(password)
        done = subprocess.run([sys.executable, *arguments], env=settings, capture_output=True)
        assert (done.returncode == 0) is healthy


def test_the_image_is_ours_and_runs_as_nobody_special() -> None:
    lines = DOCKERFILE.splitlines()
    user = [line for line in lines if line.startswith("USER ")]
    assert user == ["USER cbtfleet"]
    bases = {line.split()[1] for line in lines if line.startswith("FROM ")}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert bases == {"python:3.11-slim-bookworm"}
    assert wanted == ">=3.11"
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in (ROOT / "infra/images/Dockerfile.dockerignore").read_text().split()


def test_the_server_is_one_that_is_maintained() -> None:
    assert "minio" not in (ROOT / "docker-compose.yml").read_text().lower()
