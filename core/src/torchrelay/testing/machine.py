"""What the system tells of a process: the ports on which it listens, its threads, its open files."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"  # state of a socket in Linux's /proc/net/tcp, see proc(5)


def listening(own: bool = False) -> set[int] | None:
    """The TCP ports on which somebody listens; None where the system does not tell.

    Args:
        own: those of this process alone.
    """
    tables = [Path(f"/proc/self/net/{name}") for name in ("tcp", "tcp6")]
    rows = [line.split() for path in tables if path.exists() for line in _lines(path)]
    if not rows:
        return None
    inodes = _socket_inodes() if own else set()
    # Columns: 1 is address:port in base 16, 3 the state, 9 the inode.
    return {
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[3] == _LISTENING and (not own or row[9] in inodes)
    }


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    taken = listening()
    if taken is not None:
        return port not in taken
    with socket.socket() as probe:
        # Connections that are closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def open_files() -> dict[str, str]:
    """What this process has open: descriptor -> what it is; empty where the system does not tell."""
    found = {}
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            # The descriptor of the listing itself is gone by now.
            with suppress(FileNotFoundError):
                found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def threads() -> list[str]:
    """The names of this process's threads, those that native code started included where the system tells."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return sorted(thread.name for thread in threading.enumerate())
    found = []
    for task in tasks.iterdir():
        with suppress(OSError):
            found.append((task / "comm").read_text("utf-8", "replace").strip())
    return sorted(found)


def _lines(path: Path) -> list[str]:
    return path.read_text("ascii").splitlines()[1:]


def _socket_inodes() -> set[str]:
    names = open_files().values()
    return {name[8:-1] for name in names if name.startswith("socket:[")}
