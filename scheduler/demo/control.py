"""The simulated pool's control port: guests that write, what a disk held, and the log to judge by."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workers.errors import CbtfleetError

CHUNK = 4 << 20


class SimulatorFailed(CbtfleetError):
    """The simulated pool does not do what its control port promises."""


class Control:
    """Plain HTTP and JSON; one connection a call."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def get(self, path: str) -> Any:
        with self._request("GET", path) as response:
            return json.load(response)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        with self._request("POST", path, json.dumps(body).encode()) as response:
            return json.load(response)

    def first_difference(self, vdi: str, file: Path) -> int | None:
        """The first byte at which the file differs from what the disk held; None: they are the same."""
        position = 0
        with self._request("GET", f"/content?vdi={vdi}") as response, file.open("rb") as restored:
            while True:
                held, found = response.read(CHUNK), restored.read(CHUNK)
                if held != found:
                    return position + _common(held, found)
                if not held:
                    return None
                position += len(held)

    @contextmanager
    def _request(
        self, method: str, path: str, body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        with closing(http.client.HTTPConnection(self._address, timeout=60)) as connection:
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                if response.status != 200:
                    raise SimulatorFailed(f"the simulated pool answers {response.status} to {method} {path}")
                yield response
            except (OSError, http.client.HTTPException) as error:
                raise SimulatorFailed(
                    f"the simulated pool does not answer: {type(error).__name__}"
                ) from error


def _common(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
