"""The x axis: its unit and its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchrelay.cli.plotting.panels import Panel


@dataclass(frozen=True)
class Axis:
    """How x is shown: divided by `scale`, under a name."""

    label: str
    scale: float = 1.0


def axis_of(x: str, panels: Iterable[Panel]) -> Axis:
    """The axis for panels over "step", "epoch" or "time"; time in seconds, minutes or hours."""
    if x != "time":
        return Axis(x)
    longest = max((series.x[-1] for panel in panels for series in panel.series), default=0.0)
    if longest >= 3 * 3600:
        return Axis("time (h)", 3600.0)
    return Axis("time (min)", 60.0) if longest >= 300 else Axis("time (s)")
