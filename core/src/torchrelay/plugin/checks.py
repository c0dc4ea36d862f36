"""Checks of the machine that several backends need, for a plugin to name in its `DiagnosticSpec`.

Each returns None if all is well, else one line: what is wrong, and what mends it::

    DiagnosticSpec(
        name="compiler",
        target="torchrelay.plugin.checks:cxx_compiler",
        description="Kernels are compiled when they are first used.",
    )
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")


def find_cxx_compiler() -> str | None:
    """Path of the C++ compiler that torch's extensions would use: what CXX names, else the platform's."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    words = shlex.split(os.environ.get("CXX", "")) or [usual]
    return shutil.which(words[0])


def find_ninja() -> str | None:
    """Path of ninja, or the name of the Python package that brings it."""
    found = shutil.which("ninja")
    if found is None and importlib.util.find_spec("ninja") is not None:
        return "the Python package ninja"
    return found


def cxx_compiler() -> str | None:
    """Whether C++ can be compiled."""
    if find_cxx_compiler() is not None:
        return None
    if os.environ.get("CXX"):
        return f"CXX={os.environ['CXX']!r} names no compiler that is here; correct it, or unset CXX"
    return "no C++ compiler is found: apt-get install g++, or let CXX name one"


def ninja() -> str | None:
    """Whether ninja is there, which builds torch's extensions."""
    return None if find_ninja() else "ninja is not found: pip install ninja"


def extension_locks() -> str | None:
    """Whether a build of one of torch's extensions left its lock behind."""
    locks = " ".join(map(str, stale_extension_locks()))
    if not locks:
        return None
    return (
        f"whoever loads an extension whose build was ended waits for ever: {mend_locks()} {locks}"
    )


def stale_extension_locks() -> list[Path]:
    """Locks on torch's extensions that no process holds, as far as this one may see (Linux; all of them elsewhere).

    A build on another machine, in a folder that both share, cannot be seen.
    """
    seen = _unheld_locks()
    if not seen:
        return []
    # Torch closes a lock a moment before it removes it: one that nobody holds is looked at again.
    time.sleep(0.2)
    again = _unheld_locks()
    return [lock for lock in sorted(seen) if again.get(lock) == seen[lock]]


def _unheld_locks() -> dict[Path, tuple[int, int]]:
    """Locks that no process has open, and which file each of them is."""
    folder, found = extensions_folder(), {}
    for lock in {*folder.glob("*/lock"), *folder.glob("*/*/lock")}:
        with suppress(FileNotFoundError):  # a build has ended in the meantime
            status = lock.stat()
            found[lock] = (status.st_ino, status.st_mtime_ns)
    held = open_files() if found else set()
    return {lock: which for lock, which in found.items() if os.path.realpath(lock) not in held}


def mend_locks() -> str:
    """The command that removes a stale lock, but for its path."""
    return "rm" if PROCESSES.is_dir() else "if no build is under way: rm"


def extensions_folder() -> Path:
    """Where torch builds extensions: TORCH_EXTENSIONS_DIR, else `torch_extensions` in the user's cache."""
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        return Path(given)
    usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(usual)
    return Path(cache, "torch_extensions")


def open_files() -> set[str]:
    """Paths of the files that processes have open, of those processes that this one may look into (Linux)."""
    found = set()
    for descriptor in PROCESSES.glob("[0-9]*/fd/*"):
        try:
            found.add(os.readlink(descriptor))
        except OSError:  # closed in the meantime, or another user's
            continue
    return found
