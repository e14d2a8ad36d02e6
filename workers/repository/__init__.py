"""The repository: what is stored, byte for byte (docs/format.md), and the stores that keep it."""

from workers.repository.errors import (
    AlreadyWritten,
    DamagedObject,
    MissingBatches,
    PointAmbiguous,
    PointNotFound,
    RepositoryError,
    RepositoryExists,
    RepositoryMissing,
    RunEnded,
    SealCheckFailed,
)
from workers.repository.frame import FrameReader, Kind
from workers.repository.index import PackTail, read_pack_index, read_pack_tail
from workers.repository.keys import MetadataKeys, PrivateKeys, WorkerKeys
from workers.repository.naming import PackName
from workers.repository.pack import Pack, PackWriter
from workers.repository.pack_layout import ENTRY
from workers.repository.point import DiskPoint, Point, SegmentRef, point_id

__all__ = [
    "ENTRY",
    "AlreadyWritten",
    "DamagedObject",
    "DiskPoint",
    "FrameReader",
    "Kind",
    "MetadataKeys",
    "MissingBatches",
    "Pack",
    "PackName",
    "PackTail",
    "PackWriter",
    "Point",
    "PointAmbiguous",
    "PointNotFound",
    "PrivateKeys",
    "RepositoryError",
    "RepositoryExists",
    "RepositoryMissing",
    "RunEnded",
    "SealCheckFailed",
    "SegmentRef",
    "WorkerKeys",
    "point_id",
    "read_pack_index",
    "read_pack_tail",
]
