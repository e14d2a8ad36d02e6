"""Notifications over real connections to small servers, and what is said when these don't take them."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from email import message_from_string, policy
from pathlib import Path
from typing import Any

import pytest

from scheduler.notifications import compose, notify, parse_notifications
from scheduler.notifications.channels import Notifications
from scheduler.runs.values import ResultRow, RunResult
from tests.certificates import make_identity
from tests.conftest import free_port
from tests.run_records import RUN, result_row, run_result
from tests.small_servers import mail_server, web_service
from workers.errors import ConfigurationError
from workers.settings import Settings, load_settings

DONE = result_row()
ERROR = 'VM "db", disk data: the host does not answer'
FAILED = replace(DONE, vm="db", vdi="u-data", name="data", point=None, error=ERROR)


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an earlier test has made of the logging."""
    caplog.set_level(logging.WARNING)


def result(*rows: ResultRow, **changes: Any) -> RunResult:
    times = {"started": "2026-11-22T01:00:02Z", "ended": "2026-11-22T01:03:07Z"}
    return run_result(*rows, **times | changes)


GOOD = compose(result(DONE))
BAD = compose(result(DONE, FAILED, status="partial"))


def parse(tree: dict[str, Any]) -> Notifications:
    return parse_notifications(
        Settings.model_validate({"repository": {"url": "file:///backups"}, "notifications": tree})
    )


def smtp(port: int, **more: Any) -> Notifications:
    tree = {"host": "127.0.0.1", "port": port, "from": "backup@example.com", "to": ["ops@example.com"]}
    return parse({"smtp": tree | {"security": "none"} | more})


# What is said


def test_a_good_run_in_words() -> None:
    full = replace(DONE, mode="full", reason="the first backup of this disk in this repository")
    message = compose(result(full, slot="2026-11-22T01:00:00Z"), forgotten=2)
    assert message.subject == "cbtfleet: policy nightly on pool lab: succeeded"
    assert not message.problem
    assert message.text == (
        f"Run {RUN} of policy nightly on pool lab: succeeded.\n"
        "Started 2026-11-22T01:00:02Z, ended 2026-11-22T01:03:07Z, after 3 min 05 s.\n"
        "1 disk, 3 MiB read, 1 MiB stored.\n"
        "\n"
        "VM web:\n"
        "- root: full, because the first backup of this disk in this repository; 3 MiB changed, 1 MiB stored"
        " in 2.0 s (1.5 MiB/s), restore point 0123456789ab\n"
        "\n"
        "Restore points forgotten by the policy's keep: 2.\n"
    )


def test_what_went_wrong_comes_first() -> None:
    late = result(
        FAILED,
        DONE,
        replace(FAILED, vm="mail", vdi=None, error="no snapshot"),
        status="partial",
        slot="2026-11-21T23:00:00Z",
        warnings=("a snapshot is left",),
    )
    message = compose(late, ["hook after_run failed"])
    assert message.subject == "cbtfleet: policy nightly on pool lab: partial, 2 of 3 failed"
    assert message.problem
    lines = message.text.splitlines()
    assert lines[2] == "It was due at 2026-11-21T23:00:00Z and began 2 h 00 min late."
    assert lines[5:10] == [
        "What went wrong:",
        '- VM "db", disk data: the host does not answer',
        '- VM "mail", disk data: no snapshot',
        "- a snapshot is left",
        "- hook after_run failed",
    ]
    assert "- data: failed, see above" in lines


@pytest.mark.parametrize(
    ("found", "troubles", "problem"),
    [
        (result(DONE), [], False),
        (result(DONE), ["retention failed"], True),
        (result(DONE, warnings=("left over",)), [], True),
        (result(DONE, replace(FAILED, error="the run was cancelled"), status="cancelled"), [], False),
        (result(status="cancelled", warnings=("left over",)), [], True),
        (result(status="skipped"), [], True),
        (result(status="failed", error="no pool"), [], True),
    ],
)
def test_which_runs_need_a_person(found: RunResult, troubles: list[str], problem: bool) -> None:
    assert compose(found, troubles).problem is problem


def test_a_run_of_which_nothing_could_be_read_is_told_without_a_pool() -> None:
    message = compose(result(pool=None, policy=None, status="failed", error="it cannot be read"))
    assert message.subject == "cbtfleet: backup: failed"
    assert message.text.splitlines()[0] == f"Run {RUN}: failed."
    assert message.problem


# Webhook


def test_a_web_service_gets_one_json_object() -> None:
    with web_service() as service:
        notify(parse({"webhook": {"url": service.url}}), BAD)
    [body] = service.bodies
    assert service.paths == ["/hook?token=secret"]
    assert set(body) == {"text", "subject", "problem", "result"}
    assert body["text"] == f"{BAD.subject}\n{BAD.text}"
    assert body["result"]["disks"][1]["error"] == ERROR


def test_only_problems_unless_always_is_said() -> None:
    with web_service() as service:
        notify(parse({"webhook": {"url": service.url}}), GOOD)
        assert service.bodies == []
        notify(parse({"webhook": {"url": service.url, "when": "always"}}), GOOD)
        assert len(service.bodies) == 1


def test_a_service_that_is_away_for_a_moment_is_asked_again() -> None:
    with web_service(503, 429) as service:
        notify(parse({"webhook": {"url": service.url}}), BAD, pauses=(0, 0))
    assert len(service.bodies) == 3


@pytest.mark.parametrize(("codes", "tries"), [((404,), 1), ((302,), 1), ((503,) * 5, 3)])
def test_a_service_that_does_not_take_it_is_a_line_without_the_token(
    codes: tuple[int, ...], tries: int, caplog: pytest.LogCaptureFixture
) -> None:
    with web_service(*codes) as service:
        notify(parse({"webhook": {"url": service.url}}), BAD, pauses=(0, 0))
    assert len(service.bodies) == tries
    assert caplog.messages == [f"webhook not sent: webhook at 127.0.0.1: it answered {codes[0]}"]


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    notify(parse({"webhook": {"url": f"http://127.0.0.1:{free_port()}/secret"}}), BAD, pauses=(0,))
    assert caplog.messages == ["webhook not sent: webhook at 127.0.0.1: Connection refused"]


def test_one_that_never_answers(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/secret"
        notify(parse({"webhook": {"url": url, "timeout": 0.2}}), BAD, pauses=())
    assert caplog.messages == ["webhook not sent: webhook at 127.0.0.1: TimeoutError"]


def test_tls_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    identity = make_identity(addresses=("127.0.0.1",))
    with web_service(tls=identity.server_context(tmp_path)) as service:
        notify(parse({"webhook": {"url": service.url}}), BAD, pauses=())
        assert (service.bodies, "CERTIFICATE_VERIFY_FAILED" in caplog.text) == ([], True)
        trusted = {"url": service.url, "ca_file": tmp_path / "peer-cert.pem"}
        notify(parse({"webhook": trusted}), BAD, pauses=())
    assert len(service.bodies) == 1


# Mail


def test_a_mail_is_plain_text() -> None:
    with mail_server() as server:
        notify(smtp(server.port, to=["ops@example.com", "boss@example.com"]), BAD)
    letter = message_from_string(server.letters[0], policy=policy.default)
    assert server.recipients == [["ops@example.com", "boss@example.com"]]
    assert (letter["Subject"], letter["From"]) == (BAD.subject, "backup@example.com")
    assert (letter["Auto-Submitted"], letter.get_content_type()) == ("auto-generated", "text/plain")
    assert letter.get_content() == BAD.text


def test_a_mail_is_of_seven_bits_whatever_a_vm_is_called() -> None:
    with mail_server() as server:
        notify(
            smtp(server.port, when="always"), compose(result(replace(DONE, vm="wéb ☃"), policy="nächtlich"))
        )
    [letter] = server.letters
    assert letter.isascii()
    read = message_from_string(letter, policy=policy.default)
    assert "VM wéb ☃:" in read.get_content()
    assert "policy nächtlich" in read["Subject"]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_the_password_goes_over_tls_only(security: str, tmp_path: Path) -> None:
    identity = make_identity(addresses=("127.0.0.1",))
    (tmp_path / "password").write_text("horse battery\n")
    tls = identity.server_context(tmp_path)
    login = {"security": security, "username": "me", "password_file": tmp_path / "password"}
    with mail_server(tls, at_once=security == "tls") as server:
        notify(smtp(server.port, ca_file=tmp_path / "peer-cert.pem", **login), BAD, pauses=())
    assert server.users == [" me horse battery"]
    assert server.encrypted == [True]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_server_that_is_not_trusted_gets_nothing(
    security: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = make_identity(addresses=("127.0.0.1",)).server_context(tmp_path)
    with mail_server(tls, at_once=security == "tls") as server:
        notify(smtp(server.port, security=security, username="me", password="secret"), BAD, pauses=())
    assert (server.users, server.letters) == ([], [])
    [line] = caplog.messages
    assert "certificate verify failed" in line.lower().replace("_", " ")
    assert "secret" not in line


def test_starttls_is_not_left_out_when_the_server_does_not_offer_it(caplog: pytest.LogCaptureFixture) -> None:
    with mail_server() as server:
        notify(smtp(server.port, security="starttls"), BAD, pauses=(0,))
    assert server.letters == []
    assert "STARTTLS extension not supported" in caplog.text


@pytest.mark.parametrize(
    ("answers", "line", "letters"),
    [
        ({"MAIL": ["451 later"]}, None, 1),
        ({"RCPT": ["450 greylisted"]}, None, 1),
        ({"MAIL": ["550 go away\x07"]}, "refuses the mail: 550 go away", 0),
        ({"RCPT": ["550 nobody"]}, "takes no mail for any of the recipients (550)", 0),
        ({"DATA": ["554 spam"]}, "refuses the mail: 554 spam", 0),
    ],
)
def test_a_mail_that_is_refused(
    answers: dict[str, list[str]], line: str | None, letters: int, caplog: pytest.LogCaptureFixture
) -> None:
    with mail_server(**answers) as server:
        notify(smtp(server.port), BAD, pauses=(0,))
    assert len(server.letters) == letters
    assert caplog.messages == (
        [] if line is None else [f"mail not sent: mail server 127.0.0.1:{server.port} {line}"]
    )


def test_a_password_that_is_refused_is_not_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with mail_server(AUTH=["535 no secret, that"]) as server:
        notify(smtp(server.port, username="me", password="secret"), BAD, pauses=(0,))
    assert caplog.messages == [
        f"mail not sent: mail server 127.0.0.1:{server.port} refuses the username or the password (535)"
    ]


def test_one_channel_that_fails_does_not_keep_from_the_other(caplog: pytest.LogCaptureFixture) -> None:
    with mail_server() as server:
        both = smtp(server.port).model_copy(
            update={"webhook": parse({"webhook": {"url": f"http://127.0.0.1:{free_port()}"}}).webhook}
        )
        notify(both, BAD, pauses=())
    assert len(server.letters) == 1
    assert len(caplog.messages) == 1


def test_a_mistake_of_ours_is_no_failure_of_the_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr("scheduler.notifications.send.post", lambda *_: {}["a mistake"])
    notify(parse({"webhook": {"url": "https://example.com"}}), BAD)
    assert caplog.messages == ["webhook not sent"]


# The configuration

MAIL = {"host": "mail.example", "from": "a@example.com", "to": ["b@example.com"]}


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"webhok": {}}, "unknown key notifications.webhok"),
        ({"webhook": {}}, "notifications.webhook: give exactly one of url_file and url"),
        (
            {"webhook": {"url": "ftp://secret"}},
            'notifications.webhook: must look like "https://example.com/hook"',
        ),
        ({"webhook": {"url": "https://me:secret@example.com/"}}, "notifications.webhook: must look like"),
        ({"webhook": {"url_file": "/nowhere"}}, "notifications.webhook.url_file: cannot read /nowhere"),
        (
            {"webhook": {"url": "https://e.com", "when": "never"}},
            "notifications.webhook.when: Input should be",
        ),
        ({"smtp": {"host": "mail.example", "to": []}}, "notifications.smtp.from is missing"),
        ({"smtp": {**MAIL, "to": []}}, "notifications.smtp.to: Tuple should have at least 1 item"),
        ({"smtp": {**MAIL, "to": "no address"}}, "notifications.smtp.to.0: must be a bare address, like"),
        (
            {"smtp": {**MAIL, "from": "a@b.c\r\nBcc: x@y.z"}},
            "notifications.smtp.from: must be a bare address",
        ),
        ({"smtp": {**MAIL, "username": "me"}}, "notifications.smtp: a username needs exactly one of"),
        ({"smtp": {**MAIL, "password": "secret"}}, "notifications.smtp: has a password and no username"),
        (
            {"smtp": {**MAIL, "username": "me", "password": "secret", "security": "none"}},
            "notifications.smtp: would send the password in the clear",
        ),
        ({"smtp": {**MAIL, "ca_file": "/nowhere"}}, "notifications.smtp.ca_file: there is no file /nowhere"),
    ],
)
def test_mistakes_are_said_at_the_start(tree: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(tree)
    assert str(error.value).startswith(line)
    assert "secret" not in str(error.value)


def test_the_section_of_the_file_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "cbtfleet.toml").write_text(
        '[repository]\nurl = "file:///backups"\n[notifications.webhook]\nurl_file = "webhook.url"\n'
        '[notifications.smtp]\nhost = "mail.example"\nfrom = "a@example.com"\nto = "b@example.com"\n'
        'username = "me"\n'
    )
    (tmp_path / "webhook.url").write_text("https://chat.example/T0/secret\n")
    environment = {"CBTFLEET_NOTIFICATIONS__SMTP__PASSWORD": "secret"}
    found = parse_notifications(load_settings(tmp_path / "cbtfleet.toml", environment))
    assert found.webhook is not None
    assert found.smtp is not None
    assert found.webhook.read_url() == "https://chat.example/T0/secret"
    assert found.smtp.read_password() == "secret"
    assert found.smtp.address == ("mail.example", 587)
    assert "secret" not in repr(found)
