"""The section `[notifications]`: where to tell how a run went, and when."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from workers.errors import ConfigurationError
from workers.settings import Settings, read_secret_file

When = Literal["always", "problems"]
ExpandedPath = Annotated[Path, AfterValidator(lambda path: path.expanduser())]

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_LOCAL = ("localhost", "127.0.0.1", "::1")


def _address(text: str) -> str:
    if not re.fullmatch(r"[^@\s<>,\"]+@[^@\s<>,\"]+", text):
        raise ValueError('must be a bare address, like "backup@example.com"')
    return text


Address = Annotated[str, AfterValidator(_address)]


class _Channel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    when: When = "problems"
    """Of every run, or only of those that need a person."""
    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds for one try, of each wait for the other side."""
    ca_file: ExpandedPath | None = None
    """Whom to trust beside the system's authorities."""


class Webhook(_Channel):
    """A POST of one JSON object. Its address is a secret: many services put a token into it."""

    url: SecretStr | None = None
    url_file: ExpandedPath | None = None

    @model_validator(mode="after")
    def _one_url(self) -> Webhook:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("give exactly one of url_file and url")
        if self.url is not None:
            _check_url(self.url.get_secret_value())
        return self

    def read_url(self) -> str:
        """Raises ConfigurationError when its file cannot be read or holds no address."""
        if self.url is not None:
            return self.url.get_secret_value()
        assert self.url_file is not None  # kept by _one_url
        url = read_secret_file(self.url_file, "notifications.webhook.url_file").strip()
        try:
            return _check_url(url)
        except ValueError as error:
            raise ConfigurationError(f"notifications.webhook.url_file: what is in it {error}") from error


def _check_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/@\s?#]+([/?]\S*)?", url):
        raise ValueError('must look like "https://example.com/hook" and hold no user or password')
    return url


class Mail(_Channel):
    """A plain text mail through an SMTP server."""

    host: str = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    """None: 587, 465 or 25, by `security`."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: SecretStr | None = None
    password_file: ExpandedPath | None = None
    sender: Address = Field(alias="from")
    to: Annotated[tuple[Address, ...], BeforeValidator(lambda to: (to,) if isinstance(to, str) else to)] = (
        Field(min_length=1)
    )

    @model_validator(mode="after")
    def _complete(self) -> Mail:
        if self.username is None and (self.password or self.password_file):
            raise ValueError("has a password and no username")
        if self.username is not None and (self.password is None) == (self.password_file is None):
            raise ValueError("a username needs exactly one of password_file and password")
        if self.username is not None and self.security == "none" and self.host not in _LOCAL:
            raise ValueError('would send the password in the clear; set security to "starttls" or "tls"')
        return self

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port or _PORTS[self.security]

    def read_password(self) -> str:
        """Raises ConfigurationError when its file cannot be read."""
        if self.password is not None:
            return self.password.get_secret_value()
        assert self.password_file is not None  # kept by _complete
        return read_secret_file(self.password_file, "notifications.smtp.password_file")


class Notifications(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: Webhook | None = None
    smtp: Mail | None = None


def parse_notifications(settings: Settings) -> Notifications:
    """The section, with the files it names read once: what would fail at night is said at the start.

    Raises ConfigurationError that names the key; no value is repeated, as it may be a secret.
    """
    try:
        found = Notifications.model_validate(settings.notifications)
    except ValidationError as error:
        raise ConfigurationError(_first_problem(error)) from error
    if found.webhook is not None:
        found.webhook.read_url()
    if found.smtp is not None and found.smtp.username is not None:
        found.smtp.read_password()
    for name, channel in (("webhook", found.webhook), ("smtp", found.smtp)):
        if channel is not None and channel.ca_file is not None and not channel.ca_file.is_file():
            raise ConfigurationError(f"notifications.{name}.ca_file: there is no file {channel.ca_file}")
    return found


def _first_problem(error: ValidationError) -> str:
    problem: Any = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in ("notifications", *problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}"
    if problem["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
