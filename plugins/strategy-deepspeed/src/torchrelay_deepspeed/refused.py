"""What of the machine keeps a run from being made, found before any process starts. Imports no torch.

Each function gives one sentence for each thing that is wrong: what, and what mends it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator

from torchrelay.plugin import checks
from torchrelay_deepspeed import vendor
from torchrelay_deepspeed.raw import RawConfig

LIBAIO = (
    "apt-get install libaio-dev (libaio-devel with dnf), or let CFLAGS and LDFLAGS say where it is"
)

_CALLS_LIBAIO = "#include <libaio.h>\nint main() { return io_submit(0, 0, 0); }\n"


def refusals(config: RawConfig, *, accelerator: str, num_nodes: int = 1) -> list[str]:
    """Everything that is wrong.

    Args:
        config: DeepSpeed's own.
        accelerator: name of the accelerator.
        num_nodes: number of machines; of several, another may hold a lock in a folder that they share.
    """
    needed = tuple(vendor.compiles(config, accelerator))
    locks = stale_locks() if num_nodes == 1 else ()
    return [*offload_folders(config), *compilers(needed), *async_io(config), *locks]


def offload_folders(config: RawConfig) -> Iterator[str]:
    """Folders for NVMe that are not there, or cannot be written."""
    for path in dict.fromkeys(
        str(config.offload(what)["nvme_path"])
        for what in ("optimizer", "param")
        if config.offload(what).get("device") == "nvme"
    ):
        trouble = _unwritable(path)
        if trouble:
            yield (
                f"{config.where} offloads to {path!r}, {trouble}; name a folder on the NVMe disk that you may write: "
                '"nvme_path" in DeepSpeed\'s own configuration, Offload(device="nvme", path=...) in DeepSpeedConfig'
            )


def _unwritable(path: str) -> str:
    if not os.path.isdir(path):
        return "which is no folder" if os.path.exists(path) else "which does not exist"
    try:
        # Permissions alone do not tell: root may do anything, but not on a disk that is mounted read-only.
        with tempfile.TemporaryFile(dir=path):
            return ""
    except OSError as error:
        return f"which cannot be written ({error.strerror})"


def compilers(extensions: Iterable[str]) -> Iterator[str]:
    """Lack of what DeepSpeed compiles these extensions with.

    Ninja is asked for each time an extension is loaded, the compiler only where it has not been built yet.
    """
    names = list(extensions)
    missing = [name for name in names if not _is_built(name)]
    for complaint, wanted in ((checks.ninja(), names), (checks.cxx_compiler(), missing)):
        if wanted and complaint:
            yield f"DeepSpeed compiles {' and '.join(wanted)} when it is first used: {complaint}"


def _is_built(extension: str) -> bool:
    folder = checks.extensions_folder()
    return any(folder.glob(f"{extension}/{extension}.so")) or any(
        folder.glob(f"*/{extension}/{extension}.so")
    )


def async_io(config: RawConfig) -> Iterator[str]:
    """Lack of libaio, where NVMe is used; a program that calls it is compiled and linked, as DeepSpeed does."""
    if config.on_nvme:
        complaint = libaio()
        if complaint:
            yield f"{config.where} offloads to NVMe: {complaint}"


def libaio() -> str | None:
    """Whether programs can be made with libaio: None, or what is wrong and the command that mends it."""
    compiler = checks.find_cxx_compiler()
    if compiler is None:
        return checks.cxx_compiler()
    flags, linked = (shlex.split(os.environ.get(name, "")) for name in ("CFLAGS", "LDFLAGS"))
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, "-x", "c++", "-", *flags, "-o", os.path.join(folder, "a"), *linked]
        done = subprocess.run(
            [*command, "-laio"], input=_CALLS_LIBAIO, text=True, capture_output=True, check=False
        )
    if done.returncode == 0:
        return None
    part = "headers are" if "libaio.h" in done.stderr else "library is"
    return f"libaio's {part} not found, with which DeepSpeed reads and writes NVMe: {LIBAIO}"


def stale_locks() -> Iterator[str]:
    """Locks on DeepSpeed's extensions that a build left behind when it was ended: DeepSpeed would wait for ever."""
    for lock in checks.stale_extension_locks():
        if lock.parent.name in vendor.EXTENSIONS:
            yield (
                f"a build of DeepSpeed's {lock.parent.name} was ended before it was done, and whoever loads it would "
                f"wait for ever: rm {lock}"
            )
