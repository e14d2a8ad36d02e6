"""A plain text mail through an SMTP server."""

from __future__ import annotations

import smtplib
import socket
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from scheduler.notifications.channels import Mail
from scheduler.notifications.failure import NotificationFailed
from scheduler.notifications.message import Message
from scheduler.notifications.trust import verified_tls


def send_mail(mail: Mail, message: Message) -> None:
    """Raises NotificationFailed, ConfigurationError (the password's file is gone)."""
    letter = _letter(mail, message)
    host, port = mail.address
    try:
        with _connected(mail) as server:
            if mail.username is not None:
                server.login(mail.username, mail.read_password())
            refused = server.send_message(letter, from_addr=mail.sender, to_addrs=list(mail.to))
    except smtplib.SMTPAuthenticationError as error:
        raise NotificationFailed(
            f"mail server {host}:{port} refuses the username or the password ({error.smtp_code})"
        ) from None
    except smtplib.SMTPResponseException as error:
        raise NotificationFailed(
            f"mail server {host}:{port} refuses the mail: {_text(error.smtp_code, error.smtp_error)}",
            passing=400 <= error.smtp_code < 500 or error.smtp_code < 0,
        ) from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        raise NotificationFailed(
            f"mail server {host}:{port} takes no mail for any of the recipients ({codes[0]})",
            passing=all(400 <= code < 500 for code in codes),
        ) from None
    except (smtplib.SMTPException, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotificationFailed(
            f"mail server {host}:{port}: {why or type(error).__name__}",
            passing=not isinstance(error, smtplib.SMTPNotSupportedError),
        ) from None
    if refused:
        raise NotificationFailed(f"mail server {host}:{port} took no mail for {', '.join(sorted(refused))}")


def _connected(mail: Mail) -> smtplib.SMTP:
    host, port = mail.address
    us = socket.gethostname()  # smtplib would ask the DNS for a longer name
    if mail.security == "tls":
        return smtplib.SMTP_SSL(host, port, us, timeout=mail.timeout, context=verified_tls(mail.ca_file))
    server = smtplib.SMTP(host, port, us, timeout=mail.timeout)
    try:
        if mail.security == "starttls":
            server.starttls(context=verified_tls(mail.ca_file))
    except BaseException:
        server.close()
        raise
    return server


def _letter(mail: Mail, message: Message) -> EmailMessage:
    letter = EmailMessage()
    letter["Subject"] = message.subject
    letter["From"] = mail.sender
    letter["To"] = ", ".join(mail.to)
    letter["Date"] = formatdate()
    letter["Message-ID"] = make_msgid(domain=mail.sender.rpartition("@")[2])
    letter["Auto-Submitted"] = "auto-generated"
    # a server may not take eight bits, and would be sent them all the same
    letter.set_content(message.text, cte=None if message.text.isascii() else "quoted-printable")
    return letter


def _text(code: int, said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"{code} {' '.join(printable.split())}"[:200]
