"""Simulated: graphs are cut by hand in lazy mode."""

from __future__ import annotations

from habana_frameworks.torch.hpu import machine
from habana_frameworks.torch.utils.internal import is_lazy


def mark_step(device_str="", sync=False):
    """Cut the graph here; does nothing in eager mode."""
    machine.events.append("mark_step" if is_lazy() else "ignored mark_step")
