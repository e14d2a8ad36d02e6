"""The configuration: what it accepts, and the one line that each mistake gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import ConfigurationError
from workers.settings import Settings, find_settings_file, load_settings, read_secret_file

COMPLETE = """
state_dir = "state"

[redis]
url = "redis://:s3cret-redis@127.0.0.1:6379/0"

[repository]
url = "s3://backups/prod"
endpoint_url = "https://s3.example"
public_key_file = "keys/public.key"
private_key_file = "/safe/private.key"

[pools.lab]
url = "https://xen1.example"
username = "backup"
password_file = "lab.password"

[pools.Site-B]
url = "https://xen9.example/"
username = "backup"
password = "s3cret-pool"
certificate_sha256 = "AB:CD:EF01234567890123456789012345678901234567890123456789abcdef01"
connections_per_host = 4

[policies.nightly]
pool = "lab"
include = { tags = ["backup"] }
"""
REPOSITORY = '[repository]\nurl = "s3://backups"\n'
POOL = '[pools.lab]\nurl = "https://xen1.example"\nusername = "backup"\npassword = "s3cret-pool"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, **environ: str) -> Settings:
    Path("cbtfleet.toml").write_text(text, encoding="utf-8")
    return load_settings(environ=environ)


def problem(text: str, **environ: str) -> str:
    """The one line that a configuration is refused with."""
    with pytest.raises(ConfigurationError) as refused:
        load(text, **environ)
    line = str(refused.value)
    assert "\n" not in line
    assert "s3cret" not in line
    return line


def test_a_complete_file(folder: Path) -> None:
    elsewhere = folder / "etc"
    elsewhere.mkdir()
    (elsewhere / "backup.toml").write_text(COMPLETE, encoding="utf-8")
    (elsewhere / "lab.password").write_text("hunter2\n", encoding="utf-8")
    settings = load_settings(Path("etc/backup.toml"), environ={})
    assert settings.redis_url() == "redis://:s3cret-redis@127.0.0.1:6379/0"
    assert settings.repository.public_key_file == Path("etc/keys/public.key")
    assert settings.repository.private_key_file == Path("/safe/private.key")
    assert settings.state_dir == Path("etc/state")
    assert settings.pool("lab").read_password() == "hunter2"
    assert settings.pool("lab").connections_per_host == 16
    assert settings.pool("Site-B").connections_per_host == 4
    assert settings.policies == {"nightly": {"pool": "lab", "include": {"tags": ["backup"]}}}
    assert "s3cret" not in repr(settings) + str(settings.model_dump())


def test_without_a_redis_the_socket_is_beside_the_configuration(folder: Path) -> None:
    assert load(REPOSITORY).redis_url() == f"unix://{folder}/.cbtfleet/redis.sock"
    (folder / "etc").mkdir()
    (folder / "etc/backup.toml").write_text("", encoding="utf-8")
    environ = {"CBTFLEET_REPOSITORY__URL": "s3://backups"}
    settings = load_settings(Path("etc/backup.toml"), environ)
    assert settings.redis_url() == f"unix://{folder}/etc/.cbtfleet/redis.sock"


def test_a_pool_may_be_called_repository(folder: Path) -> None:
    settings = load_settings_from(folder / "etc", REPOSITORY + POOL.replace("pools.lab", "pools.repository"))
    assert settings.pool("repository").username == "backup"


def load_settings_from(folder: Path, text: str) -> Settings:
    folder.mkdir()
    (folder / "cbtfleet.toml").write_text(text, encoding="utf-8")
    return load_settings(folder / "cbtfleet.toml", environ={})


@pytest.mark.parametrize(
    ("given_path", "environ", "found"),
    [
        (None, {}, "cbtfleet.toml"),
        (None, {"CBTFLEET_CONFIG": ""}, "cbtfleet.toml"),
        (None, {"CBTFLEET_CONFIG": "a.toml"}, "a.toml"),
        ("b.toml", {"CBTFLEET_CONFIG": "a.toml"}, "b.toml"),
    ],
)
def test_where_the_file_is_looked_for(given_path: str | None, environ: dict[str, str], found: str) -> None:
    assert find_settings_file(Path(given_path) if given_path else None, environ) == Path(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "no configuration: write cbtfleet.toml, or give --config or CBTFLEET_CONFIG"),
        ("[repository\n", "cbtfleet.toml is not valid TOML: Expected .* line 1"),
        ("[repository]\n", "cbtfleet.toml: repository.url is missing"),
        (POOL, "cbtfleet.toml: repository is missing"),
        ('repository = "s3://x"\n', "cbtfleet.toml: repository must be a section"),
        ('pools = "lab"\n' + REPOSITORY, "cbtfleet.toml: pools must be a section"),
        (REPOSITORY + "[pools]\nlab = 1\n", "cbtfleet.toml: pools.lab must be a section"),
        (REPOSITORY + "colour = 1\n", "cbtfleet.toml: unknown key repository.colour"),
        (REPOSITORY + POOL + "pasword = 's3cret'\n", "cbtfleet.toml: unknown key pools.lab.pasword"),
        (REPOSITORY + "[redis]\nurl = 'localhost:s3cret'\n", "redis: url must look like .redis://host"),
        (
            REPOSITORY + "[redis]\nusername = 'x'\npassword_file = 'p'\n",
            "redis: ca_file, .* need url",
        ),
        (
            REPOSITORY + "[redis]\nurl = 'redis://h'\nca_file = 'x'\n",
            "redis: ca_file is for a url",
        ),
        (REPOSITORY + "[redis]\nurl = 'redis://h'\nusername = 'x'\n", "redis: username needs password_file"),
        (
            REPOSITORY + "[redis]\nurl = 'redis://:s3cret@h'\npassword_file = 'x'\n",
            "redis: give the password in password_file or in url, not in both",
        ),
        (REPOSITORY + "endpoint_url = 's3.example'\n", "endpoint_url must look like"),
        (REPOSITORY + "endpoint_url = 'https://k:s3cret@s3.example'\n", "hold no credentials"),
        (REPOSITORY + "addressing = 's3cret'\n", "repository.addressing: input should be 'auto'"),
        (REPOSITORY + "public_key_file = '~no-such-user/x'\n", "begins with ~ but there is no such home"),
        (REPOSITORY + POOL + "password_file = 'x'\n", "pools.lab: give exactly one of password_file"),
        (REPOSITORY + POOL.replace("password", "#"), "pools.lab: give exactly one of password_file"),
        (REPOSITORY + POOL + "nbd_tls = 'ca'\n", "pools.lab: nbd_tls = .ca. needs ca_file"),
        (REPOSITORY + POOL + "nbd_tls = 'none'\n", "pools.lab.nbd_tls: input should be 'certificate'"),
        (REPOSITORY + POOL + "certificate_sha256 = 'ab'\n", "must be 64 hexadecimal digits"),
        (REPOSITORY + POOL + "connections_per_host = 0\n", "connections_per_host: .* greater than or equal"),
        (REPOSITORY + POOL + "connections_per_host = 17\n", "connections_per_host: .* less than or equal"),
        (REPOSITORY + POOL + "timeout = 0\n", "pools.lab.timeout: input should be greater than 0"),
        (REPOSITORY + "[worker]\nconcurrency = 0\n", "worker.concurrency: .* greater than or equal to 1"),
    ],
)
def test_a_mistake_gets_one_line_that_names_it(folder: Path, text: str, line: str) -> None:
    assert re.search(line, problem(text))


@pytest.mark.parametrize(
    "url", ["", "s3://", "s3:///x", "backups", "/mnt/nas", "file://", "http://x/y", "s3://b\n", "s3:// b"]
)
def test_a_repository_address_that_is_none(folder: Path, url: str) -> None:
    assert "url must look like" in problem(f"[repository]\nurl = {url!r}\n".replace("'", '"'))


@pytest.mark.parametrize(
    "url", ["xen1", "ftp://xen1", "https://", "https://xen1/path", "https://u:s3cret@xen1"]
)
def test_a_pool_address_that_is_none(folder: Path, url: str) -> None:
    assert "url must look like" in problem(REPOSITORY + POOL.replace("https://xen1.example", url))


def test_a_named_file_must_be_there(folder: Path) -> None:
    environ = {"CBTFLEET_REPOSITORY__URL": "s3://backups"}
    assert load_settings(None, environ).repository.url == "s3://backups"
    with pytest.raises(ConfigurationError, match=r"no configuration file cbtfleet\.toml"):
        load_settings(Path("cbtfleet.toml"), environ)
    with pytest.raises(ConfigurationError, match=r"no configuration file other\.toml"):
        load_settings(None, {**environ, "CBTFLEET_CONFIG": "other.toml"})


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read \.: Is a directory"):
        load_settings(Path("."), {})
    Path("latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigurationError, match=r"cannot read latin\.toml: it is not UTF-8 text"):
        load_settings(Path("latin.toml"), {})


def test_the_environment_wins_and_needs_no_file(folder: Path) -> None:
    settings = load(
        REPOSITORY,
        CBTFLEET_REPOSITORY__URL="file:///mnt/nas",
        CBTFLEET_REDIS__URL="unix:///run/redis.sock",
        CBTFLEET_WORKER__CONCURRENCY="3",
        CBTFLEET_WORKER__CHECK_SEALED="true",
        CBTFLEET_POOLS__LAB__URL="https://xen1.example",
        CBTFLEET_POOLS__LAB__USERNAME="backup",
        CBTFLEET_POOLS__LAB__PASSWORD="12345678",
        CBTFLEET_POLICIES__NIGHTLY__INCLUDE='{ tags = ["backup"] }',
        CBTFLEET_PASSPHRASE="not a setting",
        CBTFLEET_DEBUG="1",
        HOME="/",
    )
    assert settings.repository.url == "file:///mnt/nas"
    assert settings.redis_url() == "unix:///run/redis.sock"
    assert settings.worker.concurrency == 3
    assert settings.worker.check_sealed is True
    assert settings.pool("lab").read_password() == "12345678"
    assert settings.policies["nightly"]["include"] == {"tags": ["backup"]}


def test_a_variable_finds_the_pool_however_the_file_spells_its_name(folder: Path) -> None:
    settings = load(COMPLETE, CBTFLEET_POOLS__SITE_B__CONNECTIONS_PER_HOST="2")
    assert set(settings.pools) == {"lab", "Site-B"}
    assert settings.pool("Site-B").connections_per_host == 2


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("CBTFLEET_COLOUR", "s3cret", "CBTFLEET_COLOUR: unknown key colour"),
        ("CBTFLEET_REDIS__PORT", "1", "CBTFLEET_REDIS__PORT: unknown key redis.port"),
        ("CBTFLEET_WORKER__CONCURRENCY", "s3cret", "CBTFLEET_WORKER__CONCURRENCY: .* valid integer"),
        ("CBTFLEET_REPOSITORY__URL__X", "1", "CBTFLEET_REPOSITORY__URL__X: url is not a section"),
        ("CBTFLEET_REPOSITORY", "s3cret", "CBTFLEET_REPOSITORY: repository must be a section"),
        ("CBTFLEET_POOLS__LAB__PASSWORD", "[1]", "CBTFLEET_POOLS__LAB__PASSWORD: .* valid string"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    folder: Path, name: str, value: str, line: str
) -> None:
    assert re.search(line, problem(REPOSITORY + POOL, **{name: value}))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_plain_text_from_the_environment_is_taken_as_it_is(password: str) -> None:
    """Whatever is not bracketed as in TOML: no number, boolean, quote or escape is read into it."""
    if password[0] in "[{":
        return
    environ = {
        "CBTFLEET_REPOSITORY__URL": "s3://backups",
        "CBTFLEET_POOLS__LAB__URL": "https://xen1.example",
        "CBTFLEET_POOLS__LAB__USERNAME": "backup",
        "CBTFLEET_POOLS__LAB__PASSWORD": password,
    }
    assert load_settings(None, environ).pool("lab").read_password() == password


def test_an_unknown_pool_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match='no pool "prod" in the configuration; known: Site-B, lab'):
        load(COMPLETE).pool("prod")
    with pytest.raises(ConfigurationError, match="known: none"):
        load(REPOSITORY).pool("prod")


@pytest.mark.parametrize(
    ("content", "secret"),
    [(b"hunter2", "hunter2"), (b"hunter2\n", "hunter2"), (b"hunter2\r\n", "hunter2"), (b" a b \n", " a b ")],
)
def test_a_secret_is_its_file_without_the_line_end(tmp_path: Path, content: bytes, secret: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    assert read_secret_file(tmp_path / "secret", "password_file") == secret


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "it is not text"), (None, "No such file")],
)
def test_a_secret_that_cannot_be_read(tmp_path: Path, content: bytes | None, line: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"^password_file: .*{line}"):
        read_secret_file(tmp_path / "secret", "password_file")
