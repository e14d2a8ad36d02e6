"""Sending a message where the configuration says: tried a few times, and never a failure of the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from scheduler.notifications.channels import Notifications
from scheduler.notifications.failure import NotificationFailed
from scheduler.notifications.mail import send_mail
from scheduler.notifications.message import Message
from scheduler.notifications.webhook import post
from workers.errors import CbtfleetError

log = logging.getLogger(__name__)

PAUSES = (2.0, 10.0)
"""Seconds before each new try: a service that restarts is back by then; the run's step waits meanwhile."""


def notify(notifications: Notifications, message: Message, pauses: Sequence[float] = PAUSES) -> None:
    """Tells everybody who wants to know. What fails is a line of the log and nothing more."""
    webhook, smtp = notifications.webhook, notifications.smtp
    if webhook is not None and (message.problem or webhook.when == "always"):
        _try("webhook", lambda: post(webhook, message), pauses)
    if smtp is not None and (message.problem or smtp.when == "always"):
        _try("mail", lambda: send_mail(smtp, message), pauses)


def _try(what: str, send: Callable[[], None], pauses: Sequence[float]) -> None:
    for pause in (*pauses, None):
        try:
            send()
        except NotificationFailed as error:
            if error.passing and pause is not None:
                log.info("%s not sent yet: %s", what, error)
                time.sleep(pause)
                continue
            log.error("%s not sent: %s", what, error)
        except CbtfleetError as error:
            log.error("%s not sent: %s", what, error)
        except Exception:
            log.exception("%s not sent", what)
        return
