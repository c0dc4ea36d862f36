"""The processes of a program, as far as the system tells (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torchrelay.testing.forkserver.server import NAME as SERVER


@dataclass(frozen=True)
class Process:
    """A process.

    Args:
        pid: its process id.
        name: its name.
        state: one letter; Z when it has ended, and its parent has not waited for it.
        parent: process id of its parent.
        group: its process group.
    """

    pid: int
    name: str
    state: str
    parent: int
    group: int


def all_processes() -> list[Process]:
    """All processes; none where the system does not tell."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        # Gone meanwhile.
        with suppress(OSError):
            # The name may hold blanks and parentheses.
            head, _, tail = path.read_text().rpartition(")")
            state, parent, group = tail.split()[:3]
            name = head.partition("(")[2]
            found.append(Process(int(path.parent.name), name, state, int(parent), int(group)))
    return found


def children() -> set[int]:
    """The children of this process, those that have ended included."""
    return {each.pid for each in all_processes() if each.parent == os.getpid()}


def members(group: int, strangers: Collection[int]) -> list[int]:
    """The living processes of a program that this process has started.

    They are those of its process group, and this process's descendants, which those that have lost their parents are if
    it adopts orphans.

    Args:
        group: process group of the program.
        strangers: children of this process that are not the program's.
    """
    found = {each.pid: each for each in all_processes()}
    if not found:
        return [group] if _exists(group) else []

    def belongs(each: Process) -> bool:
        # A program's own server ends with it, by a signal that may be on its way.
        if each.state == "Z" or each.name == SERVER:
            return False
        if each.group == group:
            return True
        while each.parent in found and each.parent != os.getpid():
            each = found[each.parent]
        return each.parent == os.getpid() and each.pid not in strangers

    return [pid for pid, each in found.items() if belongs(each)]


def reap(strangers: Collection[int]) -> None:
    """Wait for the adopted children that have ended.

    Args:
        strangers: children that others wait for.
    """
    for each in all_processes():
        if each.state == "Z" and each.parent == os.getpid() and each.pid not in strangers:
            # Whoever has started it may have waited for it meanwhile.
            with suppress(ChildProcessError):
                os.waitpid(each.pid, os.WNOHANG)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
