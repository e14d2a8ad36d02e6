"""Telling people how a run went: by mail, or with a request to a web service of theirs (docs/nights.md)."""

from scheduler.notifications.channels import Notifications, parse_notifications
from scheduler.notifications.message import Message, compose
from scheduler.notifications.send import PAUSES, notify

__all__ = ["PAUSES", "Message", "Notifications", "compose", "notify", "parse_notifications"]
