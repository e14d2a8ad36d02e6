"""How far another machine's clock is from ours."""

from __future__ import annotations

from scheduler.checks.check import Check, Subject

FINE = 2.0
"""Seconds: leases run on Redis's own clock, so this much only looks odd in the times that are shown."""

REFUSED = 300.0
"""Seconds: S3 refuses requests whose signature is 15 minutes off; be loud well before that."""


def clock_check(subject: Subject, name: str, ahead: float) -> Check:
    """`ahead`: seconds that the other clock is ahead of ours."""
    said = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) <= FINE:
        return subject.ok(name, said)
    todo = "let both machines take their time from the same NTP servers"
    return (subject.failed if abs(ahead) > REFUSED else subject.warning)(name, said, todo)
