"""How many IPUs there are, asked of PopTorch in a process of its own: importing it loads torch and the driver."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys

from torchrelay.plugin import Hardware
from torchrelay_ipu.plugin import INSTALL

EMULATOR = "POPTORCH_IPU_MODEL"
"""PopTorch's own variable: its emulator is to stand in for IPUs."""

TIMEOUT = 60.0
"""Seconds after which a driver that does not answer counts as none."""

# The largest device that is there; IPUs are had by powers of two.
_ASK = """
import poptorch
number = 0
while number < 4096 and poptorch.ipuHardwareIsAvailable(num_ipus=2 * number or 1):
    number = 2 * number or 1
print(number)
"""


def emulated() -> bool:
    """Whether the user asks for the emulator."""
    return os.environ.get(EMULATOR, "0") not in ("", "0")


def ipus() -> Hardware:
    """The IPUs of this machine; one where the emulator is asked for, which is any number."""
    if importlib.util.find_spec("poptorch") is None:
        return Hardware(count=0, reason=INSTALL)
    if emulated():
        return Hardware(count=1)
    return _ask()


@functools.cache
def _ask() -> Hardware:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Hardware(count=0, reason=f"the IPU driver has not answered in {TIMEOUT:.0f} s")
    lines = done.stderr.strip().splitlines() or ["no message"]
    if done.returncode:
        return Hardware(count=0, reason=f"PopTorch cannot be imported: {lines[-1]}")
    count = int(done.stdout.split()[-1])
    reason = "" if count else f"PopTorch finds no IPU; {EMULATOR}=1 asks for its emulator"
    return Hardware(count=count, reason=reason)
