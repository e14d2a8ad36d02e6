"""The roots of every error a user can meet.

An error's class says what the caller does next; its text is the one line that a person reads:
what happened, to which VM / disk / host, what to do. No text ever holds an export name, a session
reference, a password or a key.
"""

from __future__ import annotations


class CbtfleetError(Exception):
    """Something failed and this line says what. `exit_code` is what a process ends with because of it."""

    exit_code = 1


class ConfigurationError(CbtfleetError):
    """Wrong usage or configuration: retrying cannot help, a person must change something."""

    exit_code = 2


class CancelledError(CbtfleetError):
    """The run was cancelled by a person."""

    exit_code = 3


class MachineUnfit(CbtfleetError):
    """This machine computes wrongly: it must do nothing more, and not be started again, before a person has
    looked at it. Another machine can do what it could not."""

    exit_code = 4
