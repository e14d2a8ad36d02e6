"""What writers that died have left in a store, where it is no object, so that no listing shows it.

A bucket has none: an object is one PUT, which creates it whole or not at all. Uploads in parts, whose parts
stay until somebody aborts them, are never begun: a pack is far smaller than what one PUT may carry.
"""

from __future__ import annotations

from workers.repository.directory_store import DirectoryStore
from workers.repository.store import Store


def remove_abandoned_writes(store: Store) -> int:
    """Removes them; returns how many there were. Safe beside writers that are alive. Raises StoreError."""
    return store.remove_abandoned() if isinstance(store, DirectoryStore) else 0
