"""Whom a notification is sent to: TLS with the server's name and certificate checked, always."""

from __future__ import annotations

import ssl
from pathlib import Path

from scheduler.notifications.failure import NotificationFailed


def verified_tls(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the system's authorities, and those of `ca_file`. Raises NotificationFailed."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise NotificationFailed(f"ca_file {ca_file} holds no certificates that can be read") from error
    return context
