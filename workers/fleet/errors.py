"""What can go wrong between a process and the ledger."""

from __future__ import annotations

from workers.errors import CbtfleetError, ConfigurationError


class LedgerError(CbtfleetError):
    """The ledger refused a call: it would break a rule that the text names. Retrying cannot help."""


class LedgerUnreachable(LedgerError):
    """Redis did not answer. Nothing is known about the call: try again, or give up the stream in time."""


class LedgerUnsuitable(ConfigurationError):
    """The Redis at the configured address cannot hold a ledger: too old, a cluster, or a bad address."""


class StepLost(LedgerError):
    """The step that is being done has another owner by now, or Redis lost its memory. Nothing was changed."""


class UnknownToLedger(LedgerError):
    """No such run, VM or disk: it never existed, expired after its run, or Redis lost its memory."""
