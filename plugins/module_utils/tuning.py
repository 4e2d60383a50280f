"""Defaults that follow from the host: the one place with the formulas, and the reason for each."""

from __future__ import annotations

from typing import TypedDict

# uWSGI's largest: a request's header as NGINX passes it on. NGINX's own limit is below, and follows from
# nginx_large_header_buffers (of 8 KiB each).
BUFFER_SIZE = 65535


class Tuning(TypedDict):
    """What an app's uwsgi.ini and NGINX site are filled in with."""

    processes: int
    threads: int
    harakiri: int  # seconds
    read_timeout: int  # seconds
    stop_timeout: int  # seconds
    start_timeout: int  # seconds
    buffer_size: int  # bytes
    worker_memory: int  # MB


def tuned(
    *,
    processes: int | None,
    threads: int | None,
    worker_memory: int | None,
    harakiri: int,
    health_timeout: int,
    cores: int,
    memory_mb: int,
) -> Tuning:
    """Work out an app's numbers on a host, its own choice first.

    Args:
        processes: the operator's number, or None.
        threads: the operator's number, or None.
        worker_memory: the operator's number of MB, or None.
        harakiri: seconds after which a stuck worker is killed.
        health_timeout: seconds that a new release has to answer its probe.
        cores: of the host.
        memory_mb: of the host.
    """
    # As many as can work at the same time: Python computes in one thread of a process. More of them cost memory, and
    # throughput as well. Each of them loads the app itself.
    workers = processes or max(cores, 1)
    return {
        "processes": workers,
        # For requests that wait (a database, another service), so that they don't keep fast ones from being served.
        # They take turns in Python, which costs more the more there are: docs/performance.md.
        "threads": threads or 4,
        "harakiri": harakiri,
        # NGINX waits longer than uWSGI works: the worker is killed and named in the journal, before the client is told.
        "read_timeout": harakiri + 5,
        # A graceful stop is over when the last request is answered, or was killed.
        "stop_timeout": harakiri + 10,
        # Who allows an app more to become healthy allows its import as much.
        "start_timeout": max(health_timeout, 120),
        "buffer_size": BUFFER_SIZE,
        # A leak ends in a new worker, and not in the kernel's out-of-memory killer, which takes whom it likes. Half of
        # the host's is left: for the release that starts beside this one, and for NGINX.
        "worker_memory": worker_memory or max(memory_mb // 2 // workers, 256),
    }
