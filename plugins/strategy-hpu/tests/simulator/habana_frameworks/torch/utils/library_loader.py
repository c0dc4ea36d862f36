"""Simulated: whether there is a driver."""

from __future__ import annotations

from habana_frameworks.torch.hpu.machine import installed


def is_habana_available():
    """Whether the simulated machine has a device."""
    return installed() > 0


is_habana_avaialble = is_habana_available
"""As older releases spell it."""
