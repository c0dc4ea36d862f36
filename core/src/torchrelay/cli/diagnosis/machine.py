"""What `torchrelay doctor` says of the machine. Imports no torch."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchrelay.accelerators import probes
from torchrelay.plugin import checks
from torchrelay.plugin.scan import core_version

LEAST_SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm below which data loaders' workers soon run out of it; Docker gives 64 MiB."""

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Fact:
    """Something about the machine; `mend` says what to do where it may be in the way, and is "" otherwise."""

    what: str
    found: str
    mend: str = ""


def facts() -> list[Fact]:
    """Everything that is worth knowing of the machine."""
    return [fact for find in FINDERS for fact in find()]


def interpreter() -> Iterator[Fact]:
    """Python, the system, torchrelay."""
    yield Fact("Python", f"{platform.python_version()} ({sys.executable})")
    yield Fact("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Fact("torchrelay", core_version())


def torch() -> Iterator[Fact]:
    """The installed torch, what it is built for, and the GPUs that it would see."""
    build = probes.torch_build()
    if build is None:
        yield Fact("torch", "not installed", "pip install torch")
        return
    kinds = [f"{kind} {build[kind]}" for kind in ("cuda", "hip") if build.get(kind)]
    yield Fact("torch", f"{build.get('__version__')} ({' '.join(kinds) or 'no GPU'} build)")
    gpus = probes.cuda()
    yield Fact("GPUs", f"{gpus.count}" + (f": {gpus.reason}" if gpus.reason else ""))
    if build.get("cuda"):
        home = os.environ.get("CUDA_HOME") or shutil.which("nvcc")
        mend = "" if home else "install the CUDA toolkit, or set CUDA_HOME, to compile kernels"
        yield Fact("CUDA toolkit", home or "not found", mend)


def compilers() -> Iterator[Fact]:
    """What backends need that compile at run time."""
    for what, find, check in (
        ("C++ compiler", checks.find_cxx_compiler, checks.cxx_compiler),
        ("ninja", checks.find_ninja, checks.ninja),
    ):
        complaint = check() or ""
        mend = f"for backends that compile at run time: {complaint}" if complaint else ""
        yield Fact(what, find() or "not found", mend)


def ports() -> Iterator[Fact]:
    """Whether the processes of a run can meet."""
    trouble = _bind(0)
    yield Fact(
        "ports",
        trouble or "a free one is found on the loopback interface",
        "let the sandbox or the firewall open ports on 127.0.0.1" if trouble else "",
    )
    port = os.environ.get("MASTER_PORT", "")
    if port.isdecimal() and "RANK" not in os.environ:
        taken = _bind(int(port))
        mend = "unset MASTER_PORT, or choose a free one" if taken else ""
        yield Fact("MASTER_PORT", f"{port}: {taken or 'free'}", mend)


def shared_memory() -> Iterator[Fact]:
    """Room for batches that data loaders' workers hand over."""
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        found = f"{_size(usage.total)}, {_size(usage.free)} free"
        scarce = usage.total < LEAST_SHARED_MEMORY
        mend = "docker run --shm-size=8g, or DataLoader(num_workers=0)" if scarce else ""
        yield Fact(str(SHARED_MEMORY), found, mend)


def extension_locks() -> Iterator[Fact]:
    """Locks on torch's extensions whose owner is gone: whoever loads such an extension waits for ever."""
    stale = checks.stale_extension_locks()
    seen = checks.PROCESSES.is_dir()
    found = "no process has it open" if seen else "perhaps of a build that is under way"
    for lock in stale:
        yield Fact("stale lock", f"{lock}: {found}", f"{checks.mend_locks()} {lock}")
    if not stale:
        yield Fact("extension locks", f"none is stale in {checks.extensions_folder()}")


FINDERS: tuple[Callable[[], Iterator[Fact]], ...] = (
    interpreter,
    torch,
    compilers,
    ports,
    shared_memory,
    extension_locks,
)
"""In the order of the report."""


def _bind(port: int) -> str:
    """Why the port cannot be bound on the loopback interface; "" if it can be."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
