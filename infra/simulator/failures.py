"""Failures as XAPI answers them: a code and its parameters, all strings."""

from __future__ import annotations


class Failure(Exception):
    """Becomes `Status: Failure` with `ErrorDescription: [code, *params]`."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.description = [code, *params]

    @property
    def code(self) -> str:
        return self.description[0]


class TooEarly(Failure):
    """A failure before the call was even looked at: JSON-RPC wraps it differently."""


class Stopping(Exception):
    """The simulator is being stopped: whoever waits in it gives up."""


class ReplyDropped(Exception):
    """A scripted fault: the connection closes instead of an answer."""


_SM_TEXTS = {
    44: "There is insufficient space",
    46: "The VDI is not available",
    66: "The VDI type is not supported",
    79: "VDI Invalid size",
    109: "The snapshot chain is too long",
    202: "General backend error",
    457: "Failed to activate changed block tracking",
    458: "Failed to deactivate changed block tracking",
    459: "Changed block tracking log is in inconsistent state",
    460: "Failed to calculate changed blocks for given VDIs.",
}


def sm_failure(number: int, detail: str, sr: str = "", vdi: str = "") -> Failure:
    """A failure of the storage manager: `["", "<description> [opterr=<detail>]", stderr]`.

    Two of its numbers have codes of their own: 24 (in use) and 144 (missing).
    """
    if number == 24:
        return Failure("VDI_IN_USE")
    if number == 144:
        return Failure("VDI_MISSING", sr, vdi)
    return Failure(
        f"SR_BACKEND_FAILURE_{number}",
        "",
        f"{_SM_TEXTS.get(number, 'Storage manager error')} [opterr={detail}]",
        "",
    )
