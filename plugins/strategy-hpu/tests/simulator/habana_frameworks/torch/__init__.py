"""Simulated: importing it registers the device `hpu` and the backend "hccl"."""

from __future__ import annotations

import os

# The vendor's does the same.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

import habana_frameworks.torch.core
import habana_frameworks.torch.distributed.hccl
import habana_frameworks.torch.hpu  # noqa: F401

__version__ = "1.19.0-simulated"
