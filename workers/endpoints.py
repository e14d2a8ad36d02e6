"""The old place of what `workers.xenapi` offers; goes when nobody imports it."""

from workers.xenapi import Endpoint, NotExportable, PoolNbd, explain_pool_nbd, nbd_endpoints

__all__ = ["Endpoint", "NotExportable", "PoolNbd", "explain_pool_nbd", "nbd_endpoints"]
