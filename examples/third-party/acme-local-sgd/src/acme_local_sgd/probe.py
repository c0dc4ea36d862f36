"""How many of Acme's devices there are. Imports no torch: a probe runs before any process is started."""

from __future__ import annotations

import os

from torchrelay.plugin import Hardware

VARIABLE = "ACME_SIM_DEVICES"
DEFAULT = 4


def simulated() -> Hardware:
    """As many devices as the variable says."""
    text = os.environ.get(VARIABLE, str(DEFAULT))
    if not text.isdecimal() or not int(text):
        return Hardware(count=0, reason=f"{VARIABLE}={text!r} is no number from 1")
    return Hardware(count=int(text))
