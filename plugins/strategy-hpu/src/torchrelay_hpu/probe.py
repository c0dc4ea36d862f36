"""How many HPUs there are, asked of the bridge in a process of its own: importing it loads torch and the driver."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys

from torchrelay.plugin import Hardware
from torchrelay_hpu.plugin import INSTALL

TIMEOUT = 60.0
"""Seconds after which a driver that does not answer counts as none."""

_ASK = "import habana_frameworks.torch.hpu as hpu; print(hpu.device_count())"


def hpus() -> Hardware:
    """The HPUs of this machine."""
    if importlib.util.find_spec("habana_frameworks") is None:
        return Hardware(count=0, reason=INSTALL)
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
        return Hardware(count=0, reason=f"the HPU driver has not answered in {TIMEOUT:.0f} s")
    lines = done.stderr.strip().splitlines() or ["no message"]
    if done.returncode:
        return Hardware(count=0, reason=f"habana_frameworks cannot be imported: {lines[-1]}")
    count = int(done.stdout.split()[-1])
    return Hardware(count=count, reason="" if count else "habana_frameworks finds no HPU")
