"""The one configuration file, `cbtfleet.toml`, and its environment variables.

Every key can also come from the environment: its path joined with two underscores behind `CBTFLEET_`,
for example `CBTFLEET_REDIS__URL` or `CBTFLEET_POOLS__LAB__PASSWORD_FILE`; the environment wins.
A name there is that of the file without regard to case, and with `_` where the file has `-` or `.`.
A list or a table is written as in TOML; anything else is plain text.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from workers.errors import ConfigurationError

DEFAULT_FILE = Path("cbtfleet.toml")
_PREFIX = "CBTFLEET_"
PASSPHRASE = "CBTFLEET_PASSPHRASE"
"""The environment variable; not a setting, so that no process keeps it in its settings."""
_NOT_SETTINGS = {"CBTFLEET_CONFIG", PASSPHRASE, "CBTFLEET_DEBUG"}

ExpandedPath = Annotated[Path, AfterValidator(lambda path: path.expanduser())]

SettingsTree = dict[str, Any]
"""A configuration, or a section of it, as it is written: foreign values, before they are checked."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisSettings(_Section):
    url: SecretStr | None = None
    """`redis://`, `rediss://` or `unix://`; None: the Redis that `cbtfleet up` brings along."""
    ca_file: ExpandedPath | None = None
    username: str | None = None
    password_file: ExpandedPath | None = None

    @model_validator(mode="after")
    def _known_kind(self) -> RedisSettings:
        url = self.url.get_secret_value() if self.url else ""
        if url and not re.match(r"(rediss?|unix)://.", url):
            raise ValueError('url must look like "redis://host:6379/0", "rediss://..." or "unix:///socket"')
        if not url and (self.ca_file or self.username or self.password_file):
            raise ValueError("ca_file, username and password_file need url: our own Redis has none of them")
        if self.ca_file is not None and not url.startswith("rediss://"):
            raise ValueError("ca_file is for a url with rediss://, which is TLS")
        if self.username is not None and self.password_file is None:
            raise ValueError("username needs password_file")
        if self.password_file is not None and "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("give the password in password_file or in url, not in both")
        return self

    def read_password(self) -> str | None:
        """The one in `password_file`. Raises ConfigurationError when it cannot be read."""
        return (
            None
            if self.password_file is None
            else read_secret_file(self.password_file, "redis.password_file")
        )


class RepositorySettings(_Section):
    url: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_file: ExpandedPath | None = None
    public_key_file: ExpandedPath | None = None
    metadata_key_file: ExpandedPath | None = None
    private_key_file: ExpandedPath | None = None
    passphrase_file: ExpandedPath | None = None

    @model_validator(mode="after")
    def _known_kind(self) -> RepositorySettings:
        if not re.fullmatch(r"s3://[^/\s]+(/.*)?|file:///.+", self.url):
            raise ValueError('url must look like "s3://bucket/prefix" or "file:///folder"')
        if self.endpoint_url is not None and not re.fullmatch(r"https?://[^/@\s]+(/\S*)?", self.endpoint_url):
            raise ValueError('endpoint_url must look like "https://s3.example" and hold no credentials')
        return self


class PoolSettings(_Section):
    url: str
    username: str
    password: SecretStr | None = None
    password_file: ExpandedPath | None = None
    ca_file: ExpandedPath | None = None
    certificate_sha256: str | None = None
    verify_tls: bool = True
    nbd_tls: Literal["certificate", "public-key", "ca"] = "certificate"
    allow_insecure_nbd: bool = False
    """Whether disks may be read over a network of the purpose insecure_nbd, which has no TLS."""
    nbd_port: int = Field(default=10809, ge=1, le=65535)
    """Of the hosts' NBD service; used only while XAPI cannot say it, because one host is dead."""
    connections_per_host: int = Field(default=16, ge=1, le=16)
    timeout: float = Field(default=60.0, gt=0)
    """Seconds one XenAPI call may take, to the end of its answer, before we give up."""
    snapshots_at_once: int = Field(default=4, ge=1)
    snapshots_at_once_per_sr: int = Field(default=1, ge=1)
    snapshots_at_once_per_host: int = Field(default=2, ge=1)
    """How many VMs may be snapshotted and planned at the same time: operations on one storage repository
    queue up inside XAPI anyway, where nobody sees them and the guests' own have to wait behind."""
    reclaim: Literal["confirmed", "quarantine"] = "confirmed"
    """When the slot of a connection that ended is used again: once the host, asked, no longer has the disk
    plugged, or after a fixed time (docs/fleet.md)."""

    @model_validator(mode="after")
    def _complete(self) -> PoolSettings:
        if not re.fullmatch(r"https?://[^/@\s]+/?", self.url):
            raise ValueError('url must look like "https://xen1.example" and hold no user or password')
        if (self.password is None) == (self.password_file is None):
            raise ValueError("give exactly one of password_file and password")
        if self.certificate_sha256 is not None:
            digest = self.certificate_sha256.replace(":", "").lower()
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ValueError("certificate_sha256 must be 64 hexadecimal digits, colons allowed")
        if self.nbd_tls == "ca" and self.ca_file is None:
            raise ValueError('nbd_tls = "ca" needs ca_file')
        return self

    def read_password(self) -> str:
        """The password itself. Raises ConfigurationError when its file cannot be read."""
        if self.password is not None:
            return self.password.get_secret_value()
        assert self.password_file is not None  # kept by _complete
        return read_secret_file(self.password_file, "password_file")


class WorkerSettings(_Section):
    concurrency: int | None = Field(default=None, ge=1)
    """Streams at most on this node; None: one a core."""
    compression_level: int = Field(default=1, ge=1, le=19)
    check_sealed: bool = False
    """Open and compare every sealed frame before it is uploaded; off, as it costs 20 % (docs/speed.md)."""


class FleetSettings(_Section):
    time_scale: float = Field(default=1.0, gt=0, le=10)
    """Multiplies every duration of the fleet (leases, quarantines, the barrier). For trying out: every
    process of one fleet must have the same."""


class MetricsSettings(_Section):
    """Where Prometheus reads; a port of 0 serves nothing."""

    host: str = "127.0.0.1"
    worker_port: int = Field(default=9808, ge=0, le=65535)
    scheduler_port: int = Field(default=9809, ge=0, le=65535)


class Settings(_Section):
    repository: RepositorySettings
    redis: RedisSettings = RedisSettings()
    pools: dict[str, PoolSettings] = {}
    worker: WorkerSettings = WorkerSettings()
    fleet: FleetSettings = FleetSettings()
    metrics: MetricsSettings = MetricsSettings()
    policies: dict[str, SettingsTree] = {}
    """As written; only the scheduler knows what a policy means."""
    notifications: SettingsTree = Field(default={}, repr=False)
    """As written, with what is secret in it; only the scheduler sends any."""
    state_dir: ExpandedPath = Path(".cbtfleet")
    """Where `cbtfleet up` keeps its own Redis, relative to the configuration file."""

    def pool(self, name: str) -> PoolSettings:
        """One pool by name. Raises ConfigurationError that lists the known names."""
        if name not in self.pools:
            known = ", ".join(sorted(self.pools)) or "none"
            raise ConfigurationError(f'no pool "{name}" in the configuration; known: {known}')
        return self.pools[name]

    def redis_url(self) -> str:
        """The Redis to use: the configured one, else the socket that `cbtfleet up` opens."""
        if self.redis.url is not None:
            return self.redis.url.get_secret_value()
        return f"unix://{(self.state_dir / 'redis.sock').absolute()}"


def read_secret_file(path: Path, key: str) -> str:
    """The one line in a secret's file, without its line end. Raises ConfigurationError."""
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{key}: cannot read {path}: {why}") from error
    if not secret:
        raise ConfigurationError(f"{key}: {path} is empty")
    return secret


def find_settings_file(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """`--config`, else CBTFLEET_CONFIG, else ./cbtfleet.toml."""
    if given is not None:
        return given
    return Path(environ["CBTFLEET_CONFIG"]) if environ.get("CBTFLEET_CONFIG") else DEFAULT_FILE


def load_settings(given: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads and checks the whole configuration.

    A missing file is an error only when it was named or when the environment does not make up for it.
    Relative paths in the file are relative to the file. Raises ConfigurationError with one line that names
    the file, the key and what is wrong; no value is repeated, because it may be a secret.
    """
    path = find_settings_file(given, environ)
    named = given is not None or bool(environ.get("CBTFLEET_CONFIG"))
    tree: SettingsTree = {}
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if named:
            raise ConfigurationError(f"no configuration file {path}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"cannot read {path}: {why}") from error
    _resolve_paths(tree, path.parent)
    variables = _overlay_environment(tree, environ)
    if not tree:
        raise ConfigurationError(
            f"no configuration: write {DEFAULT_FILE}, or give --config or CBTFLEET_CONFIG"
        )
    tree.setdefault("state_dir", str(path.parent / ".cbtfleet"))
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError(_first_problem(error, path, variables)) from error
    except RuntimeError as error:  # from Path.expanduser
        raise ConfigurationError(f"{path}: a path begins with ~ but there is no such home folder") from error


def _first_problem(error: ValidationError, path: Path, variables: Mapping[tuple[str, ...], str]) -> str:
    """One line about the first problem, which names the file or the variable that the value came from."""
    problem = error.errors(include_input=False, include_url=False, include_context=False)[0]
    keys = tuple(str(part) for part in problem["loc"])
    source = variables.get(keys, str(path))
    where = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {where}"
    if problem["type"] == "missing":
        return f"{source}: {where} is missing"
    if problem["type"] in ("model_type", "dict_type"):
        return f"{source}: {where} must be a section"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{source}: {where}: {message[0].lower()}{message[1:]}" if where else f"{source}: {message}"


def _resolve_paths(tree: SettingsTree, folder: Path) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _resolve_paths(value, folder)
        elif isinstance(value, str) and (key.endswith("_file") or key == "state_dir"):
            tree[key] = value if value.startswith("~") else str(folder / value)


def _overlay_environment(tree: SettingsTree, environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Puts the environment's values into the tree; returns which variable set which keys."""
    variables: dict[tuple[str, ...], str] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(_PREFIX) or name in _NOT_SETTINGS:
            continue
        node = tree
        keys: list[str] = []
        *sections, last = name.removeprefix(_PREFIX).lower().split("__")
        for section in sections:
            keys.append(_spelt_as_in(node, section))
            child = node.setdefault(keys[-1], {})
            if not isinstance(child, dict):
                raise ConfigurationError(f"{name}: {section} is not a section of the configuration")
            node = child
        keys.append(_spelt_as_in(node, last))
        node[keys[-1]] = _environment_value(text)
        variables[tuple(keys)] = name
    return variables


def _spelt_as_in(node: SettingsTree, key: str) -> str:
    """The section's own spelling of a key: a variable's name has neither lower case nor `-` nor `.`."""
    spellings = [known for known in node if re.sub(r"[-.]", "_", known.lower()) == key]
    return spellings[0] if spellings else key


def _environment_value(text: str) -> Any:
    if not re.match(r"\[.*\]$|\{.*\}$", text):
        return text  # numbers and booleans too: the model reads them from text, and a password may be digits
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
