"""The picture, by matplotlib: drawn without a display and without pyplot's state."""

from __future__ import annotations

from typing import Any

from torchrelay.cli.plotting.axes import Axis
from torchrelay.cli.plotting.libraries import load
from torchrelay.cli.plotting.panels import Panel, thinned
from torchrelay.errors import ConfigurationError

WIDTH, HEIGHT = 6.4, 3.6
"""Of a panel, in inches."""
MARKED = 30
"""Points up to which each is marked; a lone one would not show otherwise."""
LEGEND = 12
"""Lines up to which a panel has a legend."""


def write(panels: list[Panel], axis: Axis, title: str, path: str) -> None:
    """Draw small multiples, one panel a kind, into a file.

    Args:
        panels: what to draw.
        axis: the x axis.
        title: above all panels.
        path: the file; its suffix says the format.

    Raises:
        NotInstalledError: matplotlib is absent.
        ConfigurationError: the file cannot be written.
    """
    figure_of = load("matplotlib.figure").Figure
    canvas_of = load("matplotlib.backends.backend_agg").FigureCanvasAgg
    across = 1 if len(panels) == 1 else 2 if len(panels) <= 6 else 3
    down = -(-len(panels) // across)
    figure = figure_of(figsize=(WIDTH * across, HEIGHT * down + 0.4), layout="constrained", dpi=100)
    canvas_of(figure)
    figure.suptitle(title)
    for place, panel in enumerate(panels, 1):
        _draw(figure.add_subplot(down, across, place), panel, axis)
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror or error}; choose another with --output FILE"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"--output {path}: {error}") from error


def _draw(axes: Any, panel: Panel, axis: Axis) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(axis.label)
    axes.set_ylabel(panel.unit or panel.title)
    axes.grid(visible=True, alpha=0.3)
    if panel.logarithmic:
        axes.set_yscale("log")
    for series in panel.series:
        line = thinned(series, buckets=2000)
        marker = "o" if len(line.x) <= MARKED else None
        x = [value / axis.scale for value in line.x]
        axes.plot(x, line.y, marker=marker, markersize=3, linewidth=1.2, label=series.label)
    if not panel.finite:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center")
    if len(panel.series) <= LEGEND:
        axes.legend(fontsize="small")
    if panel.unit:
        axes.set_ylim(bottom=0)
