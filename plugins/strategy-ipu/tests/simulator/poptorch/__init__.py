"""A SIMULATOR of PopTorch's Python interface, on the processor: no IPU and nothing of Graphcore's is in it.

Written from the rules that Graphcore's published sources and documentation state; `signatures.json` says where each
signature was read. What it cannot show: speed, memory, numerics of the hardware, and which operations compile.
"""

from __future__ import annotations

from poptorch import optim
from poptorch.enums import OutputMode
from poptorch.executor import Error, PoplarExecutor, identity_loss, inferenceModel, trainingModel
from poptorch.hardware import ipuHardwareIsAvailable, ipuHardwareVersion
from poptorch.options import Options

__version__ = "3.4.0-simulated"

__all__ = [
    "Error",
    "Options",
    "OutputMode",
    "PoplarExecutor",
    "identity_loss",
    "inferenceModel",
    "ipuHardwareIsAvailable",
    "ipuHardwareVersion",
    "optim",
    "trainingModel",
]
