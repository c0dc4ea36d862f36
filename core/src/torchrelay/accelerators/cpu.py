"""CPUAccelerator: the processor."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from torchrelay.accelerators import probes
from torchrelay.accelerators.accelerator import Accelerator

_STATM = Path("/proc/self/statm")


class CPUAccelerator(Accelerator):
    """The processor; a "device" is a process, so the index only numbers processes."""

    name = "cpu"
    process_group_backend = "gloo"

    @staticmethod
    def is_available() -> bool:
        """Always."""
        return True

    @staticmethod
    def count() -> int:
        """Number of cores that this process may use."""
        return probes.cpu().count

    def device(self, index: int) -> torch.device:
        """The processor, whatever the index."""
        return torch.device("cpu")

    def memory_stats(self, device: torch.device) -> dict[str, float]:
        """`rss` and `peak_rss` of this process, in bytes; `rss` only where /proc tells it."""
        current = {"rss": _resident_bytes()} if _STATM.exists() else {}
        return current | _peak_resident_bytes()


def _resident_bytes() -> float:
    # proc(5): statm's second field is the resident set, in pages.
    return float(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_resident_bytes() -> dict[str, float]:
    if sys.platform == "win32":
        return {}
    import resource

    # getrusage(2): kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_rss": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit}
