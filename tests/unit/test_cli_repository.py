"""init, points, restore, verify and recover-key: with a store and keys, without Redis and without a pool."""

from __future__ import annotations

import io
import re
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command_line import DISK_SIZE, PASSPHRASE, CommandLine, back_up, quick_passphrases
from tests.repository_machine import DISK, VM
from workers.repository import Repository, load_private_keys, open_store, point_id
from workers.settings import load_settings


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_passphrases(monkeypatch)


@pytest.fixture
def initialised(cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", PASSPHRASE)
    assert cbtfleet("init").code == 0
    return cbtfleet


def test_init_prints_what_is_needed_once(cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", PASSPHRASE)
    created = cbtfleet.json("init")
    assert created.keys() == {"repository", "recovery_key", "files"}
    assert created["recovery_key"].count("-") == 13
    for name in created["files"]:
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600
    again = cbtfleet("init")
    assert again.code == 2
    assert "exists already" in again.said


def test_init_shows_the_recovery_key_to_a_person(initialised: CommandLine, cbtfleet: CommandLine) -> None:
    for path in (cbtfleet.folder / "keys").iterdir():
        path.unlink()
    (cbtfleet.folder / "elsewhere").mkdir()
    cbtfleet.configure(cbtfleet.config.read_text().replace("/store", "/elsewhere"))
    shown = cbtfleet("init").out
    assert "The recovery key, printed this once" in shown
    assert "keep it away from these machines" in shown
    assert PASSPHRASE not in shown


def test_init_unencrypted_says_so(cbtfleet: CommandLine) -> None:
    shown = cbtfleet("init", "--unencrypted")
    assert shown.code == 0
    assert "NOT encrypted" in shown.out
    assert "recovery key" not in shown.out
    assert cbtfleet.json("points") == {"points": []}
    assert cbtfleet.json("verify")["damaged"] == []
    doctor = {check["name"]: check["state"] for check in cbtfleet.json("doctor")["checks"]}
    assert doctor["encryption"] == "warning"


@pytest.mark.parametrize(("passphrase", "said"), [(None, "or run this on a terminal"), ("", "passphrase")])
def test_init_needs_a_passphrase(
    cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch, passphrase: str | None, said: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    if passphrase is not None:
        monkeypatch.setenv("CBTFLEET_PASSPHRASE", passphrase)
    done = cbtfleet("init")
    assert done.code == 2
    assert said in done.said
    assert list((cbtfleet.folder / "store").iterdir()) == []
    assert not (cbtfleet.folder / "keys").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [(["", ""], "the passphrase is empty"), (["one", "other"], "the two passphrases differ")],
)
def test_init_on_a_terminal_asks_twice(
    cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch, typed: list[str], said: str
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(typed)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
    done = cbtfleet("init")
    assert done.code == 2
    assert said in done.said
    answers = iter(["same", "same"])
    assert cbtfleet("init").code == 0


def test_a_bucket_that_is_not_there(cbtfleet: CommandLine, s3_endpoint: str, s3_bucket: str) -> None:
    cbtfleet.configure(f'[repository]\nurl = "s3://no-such-bucket"\nendpoint_url = "{s3_endpoint}"\n')
    for command in (["init", "--unencrypted"], ["points"], ["verify"], ["restore", "x", "--to", "y"]):
        done = cbtfleet(*command)
        assert done.code in (1, 2)
        assert "no-such-bucket" in done.said


def test_points_has_exactly_its_fields(initialised: CommandLine) -> None:
    point, _ = back_up(initialised)
    assert initialised.json("points") == {
        "points": [
            {
                "id": point.id,
                "vm": "web",
                "vm_uuid": VM,
                "time": point.time,
                "disks": [{"vdi": DISK, "virtual_size": DISK_SIZE, "sha256": None}],
                "run": "run-1",
            }
        ]
    }
    assert point.id in initialised("points").out
    for vm in ("web", VM, VM.upper()):
        assert len(initialised.json("points", "--vm", vm)["points"]) == 1
    for vm in ("db", DISK):
        done = initialised("points", "--vm", vm)
        assert (done.code, vm in done.said) == (1, True)


def test_restore_and_its_fields(initialised: CommandLine, tmp_path: Path) -> None:
    point, content = back_up(initialised)
    target = tmp_path / "disk.img"
    done = initialised.json("restore", point.id[:5], "--to", str(target))
    assert done.keys() == {"point", "vdi", "file", "bytes", "seconds"}
    assert (done["point"], done["vdi"], done["file"], done["bytes"]) == (
        point.id,
        DISK,
        str(target),
        DISK_SIZE,
    )
    assert target.read_bytes() == content
    refused = initialised("restore", point.id, "--to", str(target))
    assert refused.code == 2
    assert "--force" in refused.said
    target.write_text("something else")
    assert initialised("restore", point.id, "--vdi", DISK, "--to", str(target), "--force").code == 0
    assert target.read_bytes() == content


def test_the_private_key_alone_is_enough(initialised: CommandLine, tmp_path: Path) -> None:
    point, content = back_up(initialised)
    initialised.configure(
        '[repository]\nurl = "file://{folder}/store"\nprivate_key_file = "keys/private.key"\n'
    )
    assert [each["id"] for each in initialised.json("points")["points"]] == [point.id]
    initialised.json("restore", point.id, "--to", str(tmp_path / "disk.img"))
    assert (tmp_path / "disk.img").read_bytes() == content
    assert initialised.json("verify")["damaged"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["no-such-point"], 1, "no restore point"),
        ([""], 1, "restore point"),
        (["{point}", "--vdi", "0000"], 2, f"--vdi 0000: point .* has {DISK}"),
        (["{point}", "--to", "/nowhere/at/all"], 1, "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_restored(
    initialised: CommandLine, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    point, _ = back_up(initialised)
    back_up(initialised, "run-2")
    given = [argument.replace("{point}", point.id) for argument in arguments]
    done = initialised(
        "restore", *(given if "--to" in given else [*given, "--to", str(tmp_path / "disk.img")])
    )
    assert done.code == code
    assert re.search(said, done.said)
    assert not (tmp_path / "disk.img").exists()


def test_a_wrong_passphrase(
    initialised: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, _ = back_up(initialised)
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", "s3cret-guess")
    for command in (["restore", point.id, "--to", str(tmp_path / "disk.img")], ["verify"]):
        done = initialised(*command)
        assert done.code == 2
        assert "passphrase" in done.said
        assert "s3cret-guess" not in done.err
    monkeypatch.delenv("CBTFLEET_PASSPHRASE")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "run this on a terminal" in initialised("verify").said


def test_verify_names_what_is_damaged(initialised: CommandLine) -> None:
    point, _ = back_up(initialised)
    good = initialised.json("verify")
    assert good.keys() == {"checked_frames", "checked_bytes", "damaged"}
    assert good["checked_frames"] == 3
    assert initialised.json("verify", point.id)["damaged"] == []
    assert "no damage" in initialised("verify").out
    assert "in 95 of 100 cases" in initialised("verify", "--sample", "1").out

    [pack] = (initialised.folder / "store" / "packs").glob("*/*/*")
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    found = initialised.json("verify", expect=1)["damaged"]
    assert found
    assert found[0].keys() == {"object", "block", "why"}
    assert found[0]["object"] == str(pack.relative_to(initialised.folder / "store"))
    shown = initialised("verify")
    assert shown.code == 1
    assert found[0]["object"] in shown.out
    assert initialised("verify", "no-such-point").code == 1


def test_recover_key(cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", PASSPHRASE)
    key = cbtfleet.json("init")["recovery_key"]
    point, content = back_up(cbtfleet)
    private = cbtfleet.folder / "keys" / "private.key"
    monkeypatch.setattr("sys.stdin", io.StringIO(key + "\n"))
    assert "exists" in cbtfleet("recover-key").said
    private.unlink()
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", "a new passphrase")
    wrong = ("B" if key.startswith("A") else "A") + key[1:]
    for typed, said in (("\n", "no recovery key"), (key[:-1] + "\n", "has"), (wrong, "checksum")):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        done = cbtfleet("recover-key")
        assert done.code == 2
        assert said in done.said
        assert key[:9] not in done.err
        assert not private.exists()
    monkeypatch.setattr("sys.stdin", io.StringIO(key.lower().replace("-", " ") + "\n"))
    assert cbtfleet.json("recover-key") == {"file": str(private)}
    cbtfleet.json("restore", point.id, "--to", str(tmp_path / "disk.img"))
    assert (tmp_path / "disk.img").read_bytes() == content


def test_the_vms_metadata_are_shown_and_written(initialised: CommandLine) -> None:
    point, _ = back_up(initialised)
    settings = load_settings(initialised.config).repository
    with closing(open_store(settings)) as store:
        repository = Repository.open(store, load_private_keys(store, settings, lambda: PASSPHRASE))
        kept = repository.keep_vm_metadata("run-2", VM, "2026-11-23T01:00:00Z", b"an XVA")
        assert repository.keep_vm_metadata("run-2", VM, "2026-11-23T01:00:00Z", b"another") == kept
        later = replace(
            point, id=point_id("run-2", VM), run="run-2", time="2026-11-23T01:00:00Z", metadata=kept
        )
        repository.commit_point(later)
        assert b"an XVA" not in store.get(kept.key)
    lines = initialised("points").out.splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["no", "B"]
    target = initialised.folder / "web.xva"
    args = ("restore", later.id, "--metadata", "--to", str(target))
    assert initialised.json(*args)["bytes"] == 6
    assert target.read_bytes() == b"an XVA"
    assert "exists already" in initialised(*args).said
    assert "leave --vdi out" in initialised(*args, "--vdi", DISK).said
    done = initialised("restore", point.id, "--metadata", "--to", str(target), "--force")
    assert (done.code, "without its VM's metadata" in done.said) == (1, True)
    assert target.read_bytes() == b"an XVA"
