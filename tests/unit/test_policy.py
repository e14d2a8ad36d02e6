"""What a policy may say, and the one line about each mistake in it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scheduler.notifications import parse_notifications
from scheduler.policies.policy import Policy, parse_policies
from tests.command_line import CommandLine
from workers.errors import ConfigurationError
from workers.settings import Settings, load_settings


def parse(pool: str = "lab", **keys: Any) -> Policy:
    tree = {"pool": pool, "include": {"tags": ["backup"]}, **keys}
    settings = Settings.model_validate(
        {
            "repository": {"url": "file:///backups"},
            "pools": {"lab": {"url": "https://xen1.example", "username": "backup", "password": "x"}},
            "policies": {"nightly": tree},
        }
    )
    return parse_policies(settings)["nightly"]


def test_all_that_a_policy_may_say_of_its_nights() -> None:
    policy = parse(
        schedule="0 1 * * *",
        timezone="Europe/London",
        window={"end": "06:00"},
        keep={"last": 3, "daily": 7},
        hooks={"before_snapshot": ["/bin/freeze", "web"], "after_run": ["logger"], "timeout": 20},
    )
    slot = datetime(2026, 7, 1, 0, 0, tzinfo=UTC)
    assert policy.slots is not None
    assert policy.slots.next(datetime(2026, 6, 30, 12, tzinfo=UTC)) == slot
    assert policy.ends(slot) == datetime(2026, 7, 1, 5, 0, tzinfo=UTC)
    assert (policy.hooks.before_snapshot, policy.hooks.after_snapshot) == (("/bin/freeze", "web"), ())
    assert policy.hooks.on_failure == "skip"


def test_a_policy_without_nights() -> None:
    policy = parse()
    assert (policy.slots, policy.ends(datetime(2026, 7, 1, tzinfo=UTC)), policy.keep) == (None, None, None)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"schedule": "0 25 * * *"}, "nightly.schedule: is not a cron expression: the hour is wrong"),
        ({"schedule": "hourly"}, 'policies.nightly.schedule: must have five fields, like "0 1 * * *"'),
        ({"timezone": "Europe/Londno"}, 'policies.nightly.timezone: no time zone "Europe/Londno"'),
        ({"window": {"end": "06:00"}}, "policies.nightly: has a window and no schedule"),
        ({"window": {"end": "6"}}, 'policies.nightly.window.end: must be a time of day, like "06:00"'),
        ({"window": {"start": "01:00"}}, "policies.nightly.window.end is missing"),
        ({"keep": {}}, "policies.nightly.keep: keeps nothing; give last, daily"),
        ({"keep": {"hourly": 3}}, "unknown key policies.nightly.keep.hourly"),
        ({"keep": {"daily": -1}}, "policies.nightly.keep.daily: Input should be greater than or equal to 0"),
        ({"hooks": {"after_run": "logger"}}, "policies.nightly.hooks.after_run: must be a list of texts"),
        ({"hooks": {"after_run": []}}, "policies.nightly.hooks.after_run: names no program"),
        ({"hooks": {"after_run": ["./x"]}}, "hooks.after_run: its program must be an absolute path"),
        ({"hooks": {"timeout": 0}}, "policies.nightly.hooks.timeout: Input should be greater than 0"),
        ({"hooks": {"on_failure": "stop"}}, "policies.nightly.hooks.on_failure: Input should be 'skip' or"),
        ({"weight": float("inf")}, "policies.nightly.weight: Input should be a finite number"),
        ({"retry": {"give_up_after": float("inf")}}, "nightly.retry.give_up_after: Input should be a finite"),
        ({"pool": "lba"}, 'no pool "lba" in the configuration; known: lab'),
    ],
)
def test_mistakes(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(**keys)
    assert str(error.value).startswith(line) or line in str(error.value)


def test_the_example_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "nights.md").read_text(encoding="utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "cbtfleet.toml").write_text(
        '[repository]\nurl = "file:///backups"\n[pools.lab]\nurl = "https://xen1.example"\n'
        f'username = "backup"\npassword = "x"\n{example}'
    )
    (tmp_path / "webhook.url").write_text("https://chat.example/T0/1\n")
    (tmp_path / "mail.password").write_text("secret\n")
    settings = load_settings(tmp_path / "cbtfleet.toml", {})
    policy = parse_policies(settings)["nightly"]
    assert policy.hooks.after_run == ("/usr/local/bin/report", "--brief")
    assert policy.keep is not None
    notifications = parse_notifications(settings)
    assert notifications.webhook is not None
    assert notifications.smtp is not None
    assert (notifications.webhook.when, notifications.smtp.when) == ("always", "problems")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ('schedule = "0 25 * * *"', "policies.nightly.schedule: is not a cron expression: the hour is wrong"),
        (
            'hooks = { after_run = ["/nowhere/x"] }',
            "policies.nightly.hooks.after_run: /nowhere/x is no program",
        ),
        ('[notifications.smtp]\nfrom = "a@b.c"\nto = "d@e.f"', "notifications.smtp.host is missing"),
    ],
)
def test_a_scheduler_does_not_start_with_a_mistake(
    cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch, more: str, line: str
) -> None:
    monkeypatch.setattr("scheduler.commands.services.start_logging", lambda: None)
    cbtfleet.configure(
        '[repository]\nurl = "file://{folder}/store"\n[pools.lab]\nurl = "https://xen1.example"\n'
        'username = "backup"\npassword = "x"\n[policies.nightly]\npool = "lab"\n'
        f'include = {{ names = ["*"] }}\n{more}\n'
    )
    done = cbtfleet("scheduler")
    assert (done.code, line in done.said) == (2, True), done
