"""The charts in the terminal, by plotext: text alone when it goes elsewhere."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from torchrelay.cli.plotting.axes import Axis
from torchrelay.cli.plotting.libraries import load
from torchrelay.cli.plotting.panels import Panel, thinned

ELSEWHERE = 80
"""Characters in a line where there is no terminal whose width counts."""
WIDEST, HEIGHT, TICKS = 120, 15, 5


def library() -> Any:
    """Plotext.

    Raises:
        NotInstalledError: it is absent.
    """
    return load("plotext", instead=", or leave the charts in the terminal out with --no-terminal")


def charts(panels: list[Panel], axis: Axis, out: TextIO = sys.stdout) -> str:
    """The panels as text for a file: in colour, and as wide as it, where that is a terminal."""
    plotext = library()
    colour = out.isatty() and not os.environ.get("NO_COLOR")
    width = min(shutil.get_terminal_size().columns, WIDEST) if out.isatty() else ELSEWHERE
    styles = [
        "braille" if _takes(out, "⠿┤") else "ascii",
        "colour" if colour else "plain",
    ]
    drawn = [_chart(plotext, panel, axis, width, styles) for panel in panels]
    text = "\n\n".join(each if colour else _plain(plotext.uncolorize(each)) for each in drawn)
    return text.translate(ASCII) if "ascii" in styles else text


ASCII = str.maketrans("┌┐└┘─│┤┬├┴┼", "++++-|++++.")
MARKS = "ox+*#@%&"
"""What tells lines apart where there are no colours."""


def _chart(plotext: Any, panel: Panel, axis: Axis, width: int, styles: list[str]) -> str:
    if not panel.finite:
        return f"{panel.title}: no finite value"
    plotext.clear_figure()
    plotext.theme("pro" if "colour" in styles else "clear")
    plotext.plot_size(width, HEIGHT)
    plotext.title(panel.title + (f" ({panel.unit})" if panel.unit else ""))
    plotext.xlabel(axis.label)
    height = math.log10 if panel.logarithmic else float
    coloured = "colour" in styles or len(panel.series) == 1
    marks = ["braille"] if coloured and "braille" in styles else MARKS
    reach: list[float] = []
    for series, mark in zip(panel.series, itertools.cycle(marks), strict=False):
        line = thinned(series, buckets=width)
        drawn = [index for index, y in enumerate(line.y) if not math.isnan(y)]
        if drawn:
            x = [line.x[index] / axis.scale for index in drawn]
            y = [height(line.y[index]) for index in drawn]
            draw = plotext.plot if len(drawn) > 1 else plotext.scatter
            draw(x, y, marker=mark, label=series.label if "colour" in styles else None)
            reach += x[0], x[-1]
    low, high = (0.0 if panel.unit else min(panel.finite)), max(panel.finite)
    if high > low:
        plotext.ylim(height(low), height(high))
    _ticks(plotext.xticks, min(reach), max(reach))
    _ticks(plotext.yticks, height(low), height(high), back=panel.logarithmic)
    chart = str(plotext.build()).rstrip("\n")
    return chart if "colour" in styles else f"{chart}\n{_legend(panel, marks)}"


def _legend(panel: Panel, marks: Sequence[str]) -> str:
    if len(marks) == 1:
        return f"  {panel.series[0].label}"
    named = zip(itertools.cycle(marks), panel.series, strict=False)
    return "\n".join(f"  {mark} {series.label}" for mark, series in named)


def _ticks(
    place: Callable[[list[float], list[str]], None], low: float, high: float, back: bool = False
) -> None:
    """Put ticks at equal distances, with as few digits as tell them apart.

    Args:
        place: what takes the places and their labels.
        low: the first.
        high: the last.
        back: the places are decimal logarithms, and labels show what they are of.
    """
    number = TICKS if high > low else 1
    places = [low + (high - low) * index / (TICKS - 1) for index in range(number)]
    values = [10.0**each if back else each for each in places]
    digits = next((d for d in range(3, 16) if len({f"{v:.{d}g}" for v in values}) == number), 16)
    place(places, [f"{value:.{digits}g}" for value in values])


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


def _takes(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
