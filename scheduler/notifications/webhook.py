"""A POST of one JSON object. Neither the address nor the answer is shown: both may hold a token."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from scheduler.notifications.channels import Webhook
from scheduler.notifications.failure import NotificationFailed
from scheduler.notifications.message import Message
from scheduler.notifications.trust import verified_tls

_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected becomes a GET without its body; so that is a failure."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(webhook: Webhook, message: Message) -> None:
    """Raises NotificationFailed, ConfigurationError (its file is gone)."""
    url = webhook.read_url()
    host = urlsplit(url).hostname
    opener = urllib.request.build_opener(
        _NoRedirect, urllib.request.HTTPSHandler(context=verified_tls(webhook.ca_file))
    )
    request = urllib.request.Request(
        url,
        data=json.dumps(message.document, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "cbtfleet"},
        method="POST",
    )
    try:
        opener.open(request, timeout=webhook.timeout).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise NotificationFailed(
            f"webhook at {host}: it answered {error.code}", passing=error.code in _TRY_AGAIN
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        raise NotificationFailed(f"webhook at {host}: {_said(why)}", passing=True) from None


def _said(why: object) -> str:
    """Without what an exception of http.client may repeat of a request."""
    if isinstance(why, OSError):
        return why.strerror or type(why).__name__
    return type(why).__name__
