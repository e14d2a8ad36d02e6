"""What frames were sealed as. It stays with them wherever their bytes are copied to."""

from __future__ import annotations

from typing import NamedTuple

from workers.repository.naming import binding


class Origin(NamedTuple):
    """The disk, run, batch and VDI snapshot that a frame was read for, and the key that it is sealed with.

    `data_key` is wrapped (80 bytes) to the data key of this `generation`.
    """

    disk: str
    run: str
    batch: int
    snapshot: str
    generation: int
    data_key: bytes

    def data_key_info(self, repository: str) -> bytes:
        """What the wrapping of the data key is bound to."""
        return binding("data key", repository, self.disk, self.run, self.batch, self.snapshot)

    def frame_prefix(self, repository: str) -> bytes:
        """A frame's associated data up to its block number."""
        return binding("frame", repository, self.disk, self.run, self.snapshot) + b"\0"
