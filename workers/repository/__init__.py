"""Both planes' library. The repository: what is stored, byte for byte (docs/format.md), and its stores."""

from workers.repository.config import Config, check_config, read_config
from workers.repository.create import Created, create_repository
from workers.repository.durable_files import FileNotWritten, TargetExists, write_file
from workers.repository.errors import (
    AlreadyWritten,
    ConfigUntrue,
    DamagedObject,
    DisagreeingPacks,
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
from workers.repository.known_hashes import KnownHashes
from workers.repository.listed_points import ListedPoint
from workers.repository.load_keys import (
    Tell,
    configured_passphrase,
    load_metadata_keys,
    load_private_keys,
    load_worker_keys,
)
from workers.repository.naming import PackName, point_id
from workers.repository.newest import NewestDisks, list_points, newest_disks
from workers.repository.object_lock import (
    ObjectLock,
    Versioning,
    credentials_mark,
    object_lock_of,
    versioning_of,
)
from workers.repository.open import (
    open_store,
)
from workers.repository.orders import OrderNotSigned, check_order, sign_order
from workers.repository.origin import Origin
from workers.repository.pack import Pack, PackWriter
from workers.repository.pack_layout import ENTRY
from workers.repository.point import DiskPoint, Point, SegmentRef, VmMetadata
from workers.repository.repair import recover_private_key, repair_config
from workers.repository.repository import MAX_VM_METADATA, Repository, StoredBatches
from workers.repository.restore import Restored, restore_disk
from workers.repository.segment import BlockMap, PackTable, read_pack_table, read_segment
from workers.repository.store import (
    AccessDenied,
    BucketMissing,
    ClockWrong,
    ConditionalPutRefused,
    CredentialsMissing,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTruncated,
    Store,
    StoreError,
    StoreFull,
    StoreUnavailable,
    honours_put_if_absent,
)
from workers.repository.verify import Damage, Verified, verify_points

__all__ = [
    "ENTRY",
    "MAX_VM_METADATA",
    "AccessDenied",
    "AlreadyWritten",
    "BlockMap",
    "BucketMissing",
    "ClockWrong",
    "ConditionalPutRefused",
    "Config",
    "ConfigUntrue",
    "Created",
    "CredentialsMissing",
    "Damage",
    "DamagedObject",
    "DisagreeingPacks",
    "DiskPoint",
    "FileNotWritten",
    "FrameReader",
    "Kind",
    "KnownHashes",
    "ListedPoint",
    "MetadataKeys",
    "MissingBatches",
    "NewestDisks",
    "ObjectExists",
    "ObjectInfo",
    "ObjectLock",
    "ObjectMissing",
    "ObjectTruncated",
    "OrderNotSigned",
    "Origin",
    "Pack",
    "PackName",
    "PackTable",
    "PackTail",
    "PackWriter",
    "Point",
    "PointAmbiguous",
    "PointNotFound",
    "PrivateKeys",
    "Repository",
    "RepositoryError",
    "RepositoryExists",
    "RepositoryMissing",
    "Restored",
    "RunEnded",
    "SealCheckFailed",
    "SegmentRef",
    "Store",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "StoredBatches",
    "TargetExists",
    "Tell",
    "Verified",
    "Versioning",
    "VmMetadata",
    "WorkerKeys",
    "check_config",
    "check_order",
    "configured_passphrase",
    "create_repository",
    "credentials_mark",
    "honours_put_if_absent",
    "list_points",
    "load_metadata_keys",
    "load_private_keys",
    "load_worker_keys",
    "newest_disks",
    "object_lock_of",
    "open_store",
    "point_id",
    "read_config",
    "read_pack_index",
    "read_pack_table",
    "read_pack_tail",
    "read_segment",
    "recover_private_key",
    "repair_config",
    "restore_disk",
    "sign_order",
    "verify_points",
    "versioning_of",
    "write_file",
]
