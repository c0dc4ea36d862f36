"""Folders of this process's own for what DeepSpeed keeps on NVMe.

DeepSpeed 0.19.8 names its files by stage and rank alone: of two runs that name one folder the later deletes what the
earlier has there, and what a run has written stays when it is over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchrelay_deepspeed.raw import merged

PREFIX = "torchrelay-swap-"
"""How the name of such a folder begins."""


class SwapFolders:
    """A folder of this process's own in each that a configuration names; locked as long as the process lives.

    Args:
        tells: whether to warn of what runs that were killed have left there.
    """

    def __init__(self, tells: bool = False) -> None:
        self.tells = tells
        self._made: dict[str, tuple[str, int]] = {}

    def redirect(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """DeepSpeed's own configuration, with folders of this process in the place of those that it names."""
        zero = values.get("zero_optimization", {})
        own = {
            name: {"nvme_path": self._own(os.fspath(zero[name]["nvme_path"]))}
            for name in ("offload_optimizer", "offload_param")
            if (zero.get(name) or {}).get("device") == "nvme"
        }
        return merged(values, {"zero_optimization": own}) if own else dict(values)

    def remove(self) -> None:
        """Delete them, and all that is in them."""
        for folder, lock in self._made.values():
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        self._made.clear()

    def _own(self, path: str) -> str:
        if path not in self._made:
            if self.tells:
                _tell(path)
            self._made[path] = _locked_folder(path)
        return self._made[path][0]


def _locked_folder(path: str) -> tuple[str, int]:
    """A new folder under a path, and the descriptor that has it locked, before it has its name."""
    made = tempfile.mkdtemp(prefix=f".{PREFIX}", dir=path)
    lock = os.open(made, os.O_RDONLY)
    with suppress(OSError):  # some network file systems lock no folders
        fcntl.flock(lock, fcntl.LOCK_EX)
    name = os.path.join(path, os.path.basename(made)[1:])
    os.rename(made, name)
    return name, lock


def _tell(path: str) -> None:
    left = list(leftovers(path))
    if left:
        size = sum(file.stat().st_size for each in left for file in each.rglob("*.swp"))
        warnings.warn(
            f"runs that were killed have left {size / 2**20:.0f} MiB in {path}: rm -r {' '.join(map(str, left))}",
            stacklevel=2,
        )


def leftovers(path: str) -> Iterator[Path]:
    """Such folders under a path whose process has ended, on this machine."""
    for folder in sorted(Path(path).glob(f"{PREFIX}*")):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:  # it is gone by now, or another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process lives
            continue
        else:
            yield folder
        finally:
            os.close(lock)
