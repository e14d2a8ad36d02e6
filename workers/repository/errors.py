"""What can go wrong in a repository, apart from the store and from configuration."""

from __future__ import annotations

from collections.abc import Sequence

from workers.errors import CbtfleetError, ConfigurationError, MachineUnfit


class RepositoryError(CbtfleetError):
    """The repository cannot do what was asked of it."""


class DamagedObject(RepositoryError):
    """An object is not what was written, or not the one that belongs under its key. Never retried.

    `block` is the disk's block when the damage is known to be in one frame, else None.
    """

    def __init__(self, key: str, why: str, block: int | None = None) -> None:
        where = f"{key}, block {block}" if block is not None else key
        super().__init__(f"object {where} is damaged: {why}")
        self.object = key
        self.block = block
        self.why = why


class MissingBatches(RepositoryError):
    """A disk cannot be finished: some batches of its plan have no pack in the store."""

    def __init__(self, disk: str, run: str, numbers: Sequence[int]) -> None:
        shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
        super().__init__(
            f"disk {disk}, run {run}: no pack for {len(numbers)} batch(es): {shown}; they must be read again"
        )
        self.disk = disk
        self.run = run
        self.numbers = tuple(numbers)


class DisagreeingPacks(RepositoryError):
    """A batch has packs of different content, and which one was committed is not known."""

    def __init__(self, disk: str, run: str, batch: int) -> None:
        super().__init__(
            f"disk {disk}, run {run}: batch {batch} has packs that differ, and which one was committed is not"
            " known; somebody may have put one of them: find out who can write to the store"
        )
        self.batch = batch


class SealCheckFailed(RepositoryError, MachineUnfit):
    """A frame that was just sealed does not give its block back."""

    def __init__(self, block: int, what: str) -> None:
        super().__init__(
            f"block {block}: the frame that was just sealed {what}; this machine must not write backups: test"
            " its memory and processor before it works again"
        )


class AlreadyWritten(RepositoryError):
    """Another value is kept under this name already, and nothing is ever overwritten."""


class RunEnded(RepositoryError):
    """The run has a result, so it cannot be opened again."""


class PointNotFound(RepositoryError):
    """No restore point of this id."""


class PointAmbiguous(PointNotFound):
    """More than one restore point begins like this."""


class ConfigUntrue(ConfigurationError):
    """`config` is missing or contradicts the key files. Who reads goes on without it, who writes stops."""


class RepositoryMissing(ConfigurationError):
    """The store holds no repository, or not one of ours."""


class RepositoryExists(ConfigurationError):
    """The store holds a repository already."""
