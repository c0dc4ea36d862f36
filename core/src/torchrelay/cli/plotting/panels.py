"""Panels: what is drawn of a log, whoever draws it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from torchrelay.cli.plotting.log import Column, Log

STAGE = "train|training|val|valid|validation|test"
AXES = ("step", "epoch", "time")
RATE = "learning rate"
THROUGHPUT = "throughput"
LIMIT = 12
"""Panels of a picture that can still be read."""


@dataclass(frozen=True)
class Series:
    """A line: x goes forward; y is NaN where there is a gap."""

    label: str
    x: list[float]
    y: list[float]


@dataclass
class Panel:
    """Lines that belong together."""

    title: str
    unit: str = ""
    series: list[Series] = field(default_factory=list)

    @property
    def finite(self) -> list[float]:
        """Every value that can be drawn."""
        return [y for each in self.series for y in each.y if math.isfinite(y)]

    @property
    def logarithmic(self) -> bool:
        """Whether the panel is of learning rates that span more than a decade."""
        values = self.finite
        return self.title == RATE and bool(values) and 0 < 10 * min(values) <= max(values)


def panels_of(logs: list[Log], x: str, wanted: Collection[str] = ()) -> list[Panel]:
    """The panels of one or several runs: losses, other metrics, learning rates, throughput.

    Args:
        logs: the runs.
        x: "step", "epoch" or "time".
        wanted: columns or titles to keep; empty for all.
    """
    panels: dict[str, Panel] = {}
    for log in logs:
        axis = log.axis(x)
        prefix = f"{log.name}: " if len(logs) > 1 else ""
        for name, column in log.columns.items():
            title = title_of(name)
            if name not in AXES and (not wanted or {name, title} & set(wanted)):
                points = ((axis[row], y) for row, y in zip(column.rows, column.values, strict=True))
                panel = panels.setdefault(title, Panel(title))
                panel.series.append(_series(f"{prefix}{name}", points, x))
        if not wanted or THROUGHPUT in wanted:
            points = ((axis[row], y) for row, y in throughput(log))
            panel = panels.setdefault(THROUGHPUT, Panel(THROUGHPUT, "steps/s"))
            panel.series.append(_series(f"{prefix}{THROUGHPUT}", points, x))
    for panel in panels.values():
        panel.series = [each for each in panel.series if each.x]
    return sorted((panel for panel in panels.values() if panel.series), key=_place)


def first(panels: list[Panel], limit: int = LIMIT) -> list[Panel]:
    """As many panels as can be read, learning rate and throughput among them."""
    last = [panel for panel in panels if panel.title in (RATE, THROUGHPUT)]
    others = [panel for panel in panels if panel.title not in (RATE, THROUGHPUT)]
    return [*others[: limit - len(last)], *last]


def title_of(name: str) -> str:
    """What a column is about: `loss` for `train_loss_step`, `val/loss` and `loss_epoch`.

    Columns of LearningRateMonitor are about the learning rate, the momentum or the weight decay.
    """
    if re.search(r"(^|-)lr-", name):
        other = re.search(r"-(momentum|weight_decay)(/|$)", name)
        return other[1].replace("_", " ") if other else RATE
    bare = re.sub(r"/dataloader_idx_\d+$", "", name)
    bare = re.sub(r"_(step|epoch)$", "", bare)
    return re.sub(rf"^({STAGE})[-_/. ]|[-_/. ]({STAGE})$", "", bare) or name


def throughput(log: Log) -> Iterator[tuple[int, float]]:
    """Weight updates per second before a row of training, validation in between included; and the row."""
    column = _of_training(log)
    if column is None or "time" not in log.columns:
        return
    step, time = log.axis("step"), log.axis("time")
    for before, row in zip(column.rows, column.rows[1:], strict=False):
        steps, seconds = step[row] - step[before], time[row] - time[before]
        if steps > 0 and seconds > 0 and log.process[before] == log.process[row]:
            yield row, steps / seconds


def _of_training(log: Log) -> Column | None:
    """The column that shows best when the rows of training were written; None without any."""

    def rank(name: str) -> tuple[bool, bool, int]:
        return name.endswith("_step"), "loss" in name, len(log.columns[name].rows)

    evaluation = re.compile(r"(^|[-_/. ])(val|valid|validation|test)([-_/. ]|$)")
    names = [
        name
        for name in log.columns
        if name not in AXES
        and not evaluation.search(name)
        and not re.search(r"(^|-)lr-|DeviceStatsMonitor", name)
    ]
    return log.columns[max(names, key=rank)] if names else None


def _series(label: str, points: Iterable[tuple[float, float]], x: str) -> Series:
    known = [(x, y if math.isfinite(y) else math.nan) for x, y in points if math.isfinite(x)]
    kept = _means(known) if x == "epoch" else _forward(known)
    return Series(label, [x for x, _ in kept], [y for _, y in kept])


def _forward(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points but those that a resumed run went through again, of which the last count."""
    kept: list[tuple[float, float]] = []
    for point in reversed(points):
        if not kept or point[0] < kept[-1][0]:
            kept.append(point)
    return kept[::-1]


def _means(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each x, in order."""
    groups: dict[float, list[float]] = {}
    for x, y in points:
        groups.setdefault(x, []).append(y)
    return [(x, math.fsum(groups[x]) / len(groups[x])) for x in sorted(groups)]


def _place(panel: Panel) -> int:
    """Losses first, learning rates and throughput last; else as they come."""
    if panel.title in (RATE, "momentum", "weight decay"):
        return 2
    if panel.title == THROUGHPUT:
        return 3
    return 0 if "loss" in panel.title else 1


def thinned(series: Series, buckets: int) -> Series:
    """The line with few enough points to draw: the lowest and the highest of each stretch."""
    size = -(-len(series.x) // buckets)
    if size <= 2:
        return series
    kept: list[int] = []
    for start in range(0, len(series.x), size):
        stretch = range(start, min(start + size, len(series.x)))
        finite = [index for index in stretch if not math.isnan(series.y[index])]
        ends = (
            {min(finite, key=series.y.__getitem__), max(finite, key=series.y.__getitem__)}
            if finite
            else {start}
        )
        kept += sorted(ends)
    return Series(series.label, [series.x[i] for i in kept], [series.y[i] for i in kept])
