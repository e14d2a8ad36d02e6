"""Both planes' library. The fleet's ledger in Redis: runs, control steps, hosts' slots, streams' batches.

`docs/fleet.md` draws the states and names every key.
"""

from workers.fleet.errors import LedgerError, LedgerUnreachable, LedgerUnsuitable, StepLost, UnknownToLedger
from workers.fleet.ledger import Ledger
from workers.fleet.scripts import call_number
from workers.fleet.timing import Limits, Timing
from workers.fleet.values import (
    DiskFacts,
    DiskProgress,
    DiskWork,
    Host,
    HostToCount,
    Mode,
    Next,
    Node,
    Outcome,
    RunProgress,
    Slot,
    Swept,
    Verdict,
    VmProgress,
    Waiting,
)
from workers.messages import Grant, Step

__all__ = [
    "DiskFacts",
    "DiskProgress",
    "DiskWork",
    "Grant",
    "Host",
    "HostToCount",
    "Ledger",
    "LedgerError",
    "LedgerUnreachable",
    "LedgerUnsuitable",
    "Limits",
    "Mode",
    "Next",
    "Node",
    "Outcome",
    "RunProgress",
    "Slot",
    "Step",
    "StepLost",
    "Swept",
    "Timing",
    "UnknownToLedger",
    "Verdict",
    "VmProgress",
    "Waiting",
    "call_number",
]
