"""PostgreSQL's numbers that follow from the host: the one place with the formulas, and the reason for each."""

from __future__ import annotations

from typing import TypedDict

# Kept free for a superuser, so that a full server can still be looked into: Patroni's own connections are among them.
RESERVED = 5


class Tuning(TypedDict):
    """Parameters of postgresql.conf by name."""

    host: dict[str, str]  # what follows from this host's memory and cores
    common: dict[str, str]  # the same on each host of a cluster: a standby must allow what its leader does


def tuned(*, memory_mb: int, cores: int, connections: int) -> Tuning:
    """Work out a server's numbers.

    Args:
        memory_mb: what PostgreSQL may plan with.
        cores: of the host.
        connections: that clients may open.
    """
    allowed = connections + RESERVED
    # A quarter: what is read is in the kernel's cache as well, so more of it is memory spent twice.
    shared = max(memory_mb // 4, 16)
    # For an index or a vacuum. Three vacuums may run at once, and all of them together take less than the cache.
    maintenance = min(max(memory_mb // 16, 8), 1024)
    # For each sort or hash of each connection, and a hash may take twice of it: half of what the rest leaves, shared.
    work_kb = max((memory_mb - shared - 3 * maintenance) * 1024 // (2 * allowed), 64)
    return {
        "host": {
            "shared_buffers": f"{shared}MB",
            # No memory is taken: it tells the planner that an index is likely to be in the kernel's cache.
            "effective_cache_size": f"{memory_mb * 3 // 4}MB",
            "work_mem": f"{work_kb}kB",
            "maintenance_work_mem": f"{maintenance}MB",
            # Many short queries at a time are what a web server asks; one of them alone may not take all cores.
            "max_parallel_workers": str(max(min(cores, 8), 1)),
            "max_parallel_workers_per_gather": str(min(max(cores // 4, 0), 2)),
            # An SSD finds any page about as fast as the next one, and reads many at once.
            "random_page_cost": "1.1",
            "effective_io_concurrency": "200",
            # To compile a query pays for reports of many seconds, and costs a page some hundred milliseconds.
            "jit": "off",
            # Checkpoints every five minutes rather than whenever 1 GB was written, and spread over most of that time.
            "max_wal_size": "2GB",
            "min_wal_size": "256MB",
            "checkpoint_completion_target": "0.9",
            # Less to write and to send, for a little of the processor.
            "wal_compression": "lz4",
        },
        "common": {
            "max_connections": str(allowed),
            # Out of max_connections.
            "superuser_reserved_connections": str(RESERVED),
        },
    }
