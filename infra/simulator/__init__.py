"""A XenServer pool to try, test and measure against: XenAPI over HTTPS and NBD over TLS, on loopback."""

from infra.simulator.guests import Unknown
from infra.simulator.pool import SimulatedPool
from infra.simulator.spec import DiskSpec, PoolSpec, Timing, UserSpec, VmSpec, plain_pool

__all__ = ["DiskSpec", "PoolSpec", "SimulatedPool", "Timing", "Unknown", "UserSpec", "VmSpec", "plain_pool"]
