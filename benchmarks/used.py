"""What a process has used up: memory, and compilations of XLA's."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def compilations() -> int:
    """How many graphs XLA has compiled in this process; none where it is not used."""
    if "torch_xla" not in sys.modules:
        return 0
    from torch_xla.debug import metrics

    found = metrics.metric_data("CompileTime")
    return int(found[0]) if found else 0


def peak_megabytes() -> float:
    """The most memory that was resident in this process.

    Linux's VmHWM begins at zero with the program; `ru_maxrss` would include the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
