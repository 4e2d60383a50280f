"""Who waits at a unix socket, as the kernel has it.

Asked by netlink, in numbers. Programs that list sockets print their names, and an abstract one may hold a newline and
whatever else looks like another socket's line: any account of the host can make one.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
UNIX_DIAG_VFS, UNIX_DIAG_RQLEN = 1, 4  # attributes of an answer
SHOW = 1 << UNIX_DIAG_VFS | 1 << UNIX_DIAG_RQLEN
ESTABLISHED, LISTEN = 1, 10

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, padding, states, inode, what to show, cookie (two halves)
ANSWER = struct.Struct("=BBBBIII")  # family, type, state, padding, inode, cookie (two halves)
ATTRIBUTE = struct.Struct("=HH")  # length, type
PAIR = struct.Struct("=II")


def queue_length(path: Path) -> int:
    """Count the connections to a listening socket that nobody accepted yet; 0 without a listener."""
    return sum(waiting for waiting, _ in sockets_of(path, LISTEN))


def connected(path: Path) -> bool:
    """Whether anybody is connected to a socket, as far as its connections were accepted."""
    return any(True for _ in sockets_of(path, ESTABLISHED))


def sockets_of(path: Path, state: int) -> list[tuple[int, int]]:
    """Find the sockets bound to a file that are in a state: the two lengths of the queue of each."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return []
    # The kernel's own form of a device's number; of an inode's it tells 32 bits.
    file = (found.st_ino & 0xFFFFFFFF, os.major(found.st_dev) << 20 | os.minor(found.st_dev))
    sockets = []
    for attributes in dump(state):
        if UNIX_DIAG_VFS in attributes and PAIR.unpack_from(attributes[UNIX_DIAG_VFS]) == file:
            length, limit = PAIR.unpack_from(attributes[UNIX_DIAG_RQLEN])
            sockets.append((length, limit))
    return sockets


def dump(state: int) -> Iterator[dict[int, bytes]]:
    """Ask for all unix sockets in a state; yields the attributes of each.

    Raises:
        OSError: the kernel doesn't tell. No queue that could not be read is taken for an empty one.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(10)
        request = REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << state, 0, SHOW, 0xFFFFFFFF, 0xFFFFFFFF)
        header = HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0)
        kernel.sendto(header + request, (0, 0))
        while True:
            data, (sender, _) = kernel.recvfrom(2**16)
            at = 0 if sender == 0 else len(data)  # the kernel has the number 0
            while at < len(data):
                length, kind, *_ = HEADER.unpack_from(data, at)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", data, at + HEADER.size)
                    raise OSError(
                        -number, f"the kernel doesn't tell of unix sockets: {os.strerror(-number)} (unix_diag)"
                    )
                yield attributes_of(data[at + HEADER.size + ANSWER.size : at + length])
                at += aligned(length)


def attributes_of(data: bytes) -> dict[int, bytes]:
    """Take the attributes of one answer apart."""
    found, at = {}, 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        found[kind] = data[at + ATTRIBUTE.size : at + length]
        at += max(aligned(length), ATTRIBUTE.size)
    return found


def aligned(length: int) -> int:
    """Round up to the four bytes at which the next part begins."""
    return (length + 3) & ~3
