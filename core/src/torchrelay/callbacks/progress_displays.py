"""Where progress is shown: in lines, in a notebook's cell, or on a terminal, which `rich_display` draws on."""

from __future__ import annotations

import importlib.util
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reading:
    """A bar's state.

    Attributes:
        done: batches that are done; None where nobody counts them.
        total: batches in all; None where that is not known.
        rate: the speed in words, such as "8.1 steps/s"; "" while it is not known.
        seconds: time taken.
        metrics: figures to show, by name.
    """

    done: int | None
    total: int | None
    rate: str
    seconds: float
    metrics: Mapping[str, Any]

    @property
    def count(self) -> str:
        """The batches in words: "3/5", or "3" where it is not known of how many."""
        done = "" if self.done is None else str(self.done)
        return f"{done}/{self.total}" if self.done is not None and self.total is not None else done

    @property
    def clock(self) -> str:
        """The time taken and, where it can be told, the time left: "0:12<0:30"."""
        if not self.done or self.total is None:
            return _minutes(self.seconds)
        left = self.seconds / self.done * (self.total - self.done)
        return f"{_minutes(self.seconds)}<{_minutes(left)}"

    def text(self, spec: str = ".4g", delimiter: str = "  ") -> str:
        """The figures in one line."""
        shown = (f"{name}={_shown(value, spec)}" for name, value in self.metrics.items())
        return delimiter.join(shown)


class Bar(ABC):
    """One bar of a display."""

    def name(self, title: str, total: int | None) -> None:
        """Go on with the next data loader."""

    @abstractmethod
    def draw(self, reading: Reading) -> None:
        """Show a state."""

    def end(self, reading: Reading) -> None:
        """Show the last state."""
        self.draw(reading)


class Display(ABC):
    """Shows bars, one below the other.

    Attributes:
        live: whether it redraws a bar while it moves; otherwise each state that is drawn stays, so there are few.
    """

    live = True

    @abstractmethod
    def begin(self, title: str, total: int | None, *, passing: bool) -> Bar:
        """Begin a bar.

        Args:
            title: what moves.
            total: batches in all; None if that is not known.
            passing: whether it is part of another, and is gone when it ends.
        """

    def print(self, line: str) -> None:
        """Print a line without harm to the bars."""
        print(line, file=sys.stderr)

    def close(self) -> None:
        """Give the terminal back."""


@dataclass
class Track:
    """A bar on its way: what it counts, and for how long.

    Attributes:
        display: where it is shown.
        title: what moves.
        totals: batches of each data loader; None where that is not known.
        passing: whether it is part of another bar.
        updates_before: weight updates that were made before it; None where none are made.
        loader: number of the data loader.
        done: batches of it that are done; None while nobody has counted.
        away: seconds that another bar took meanwhile.
    """

    display: Display
    title: str
    totals: list[int | None]
    passing: bool = False
    updates_before: int | None = None
    loader: int = 0
    done: int | None = None
    away: float = 0.0
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.bar = self.display.begin(self._name(), self.total, passing=self.passing)

    @property
    def total(self) -> int | None:
        """Batches of the data loader."""
        return self.totals[self.loader] if self.loader < len(self.totals) else None

    def _name(self) -> str:
        several = len(self.totals) > 1 and self.display.live
        return f"{self.title} {self.loader + 1}/{len(self.totals)}" if several else self.title

    def reach(self, loader: int, done: int) -> None:
        """Note the batches that are done."""
        if loader != self.loader:
            self.loader = loader
            self.bar.name(self._name(), self.total)
        self.done = done

    def elapsed(self) -> float:
        """Seconds since it began, without those of bars within it."""
        return time.perf_counter() - self.started - self.away

    def draw(self, updates: int, metrics: Mapping[str, Any]) -> None:
        """Draw the present state."""
        self.bar.draw(self._reading(self.done, self.total, updates, metrics))

    def glance(self, loader: int, done: int, updates: int, metrics: Mapping[str, Any]) -> None:
        """Draw a state where nobody counts: the batches of all data loaders, as `end` does."""
        before = _sum(self.totals[:loader])
        made = None if before is None else before + done
        self.bar.draw(self._reading(made, _sum(self.totals), updates, metrics))

    def end(self, updates: int, metrics: Mapping[str, Any]) -> None:
        """Draw the last state; where nobody counted batches they are those that were announced."""
        done, total = self.done, self.total
        if done is None:
            done = total = _sum(self.totals)
        self.bar.end(self._reading(done, total, updates, metrics))

    def _reading(
        self, done: int | None, total: int | None, updates: int, metrics: Mapping[str, Any]
    ) -> Reading:
        seconds = self.elapsed()
        made = done if self.updates_before is None else updates - self.updates_before
        what = "batches" if self.updates_before is None else "steps"
        counted = self.updates_before is not None or self.loader == 0
        rate = f"{made / seconds:.1f} {what}/s" if made and counted and seconds > 0 else ""
        return Reading(done, total, rate, seconds, metrics)


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum; None where a number is not known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


class PlainDisplay(Display):
    """A line for each bar that ends, but for those within another, and for each state that is drawn before."""

    live = False

    def begin(self, title: str, total: int | None, *, passing: bool) -> Bar:
        """Note what the line is about."""
        return _Line(title, passing)


class _Line(Bar):
    def __init__(self, title: str, passing: bool) -> None:
        self.title = title
        self.passing = passing

    def draw(self, reading: Reading) -> None:
        """Print a line with the time taken and, where it can be told, the time left."""
        _print(line_of(self.title, reading, reading.clock))

    def end(self, reading: Reading) -> None:
        """Print the last line."""
        if not self.passing:
            _print(line_of(self.title, reading))


def _print(line: str) -> None:
    """Print a line in one write, so that lines of several processes stay whole."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class NotebookDisplay(Display):
    """A notebook's cell, whose output is replaced at each redraw; it needs no widgets.

    Args:
        leave: keep the line of each bar that has ended.
    """

    def __init__(self, leave: bool = False) -> None:
        self._leave = leave
        self._lines: list[_CellLine] = []
        self._id = uuid.uuid4().hex
        self._shown = False

    def begin(self, title: str, total: int | None, *, passing: bool) -> Bar:
        """Add a line."""
        if not passing and not self._leave:
            self._lines.clear()
        line = _CellLine(self, title, passing)
        self._lines.append(line)
        return line

    def drop(self, line: _CellLine) -> None:
        """Take a line away."""
        if line in self._lines:
            self._lines.remove(line)
        self.show()

    def show(self) -> None:
        """Replace the output."""
        kernel_shell().display_pub.publish(
            {"text/plain": "\n".join(line.text for line in self._lines)},
            transient={"display_id": self._id},
            update=self._shown,
        )
        self._shown = True


class _CellLine(Bar):
    def __init__(self, display: NotebookDisplay, title: str, passing: bool) -> None:
        self.display = display
        self.title = self.text = title
        self.passing = passing

    def name(self, title: str, total: int | None) -> None:
        """Go on with the next data loader."""
        self.title = title

    def draw(self, reading: Reading) -> None:
        """Show a state."""
        self.text = line_of(self.title, reading)
        self.display.show()

    def end(self, reading: Reading) -> None:
        """Show the last state; a line within another is gone."""
        if self.passing:
            self.display.drop(self)
        else:
            self.draw(reading)


def choose_display(*, leave: bool = False) -> Display:
    """The display that suits where the program runs."""
    if in_notebook():
        return NotebookDisplay(leave)
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        from torchrelay.callbacks.rich_display import RichDisplay

        return RichDisplay(leave=leave)
    return PlainDisplay()


def kernel_shell() -> Any:
    """The shell of the Jupyter kernel that runs the program; None if none does."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs the program."""
    return kernel_shell() is not None


def line_of(title: str, reading: Reading, clock: str = "") -> str:
    """A bar's state in a line, with the time in words if it is to stand there."""
    count = f"{reading.count} batches" if reading.count else f"{reading.seconds:.1f} s"
    parts = [title, count, reading.rate, clock, reading.text()]
    return "  ".join(part for part in parts if part)


def _shown(value: Any, spec: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return format(float(value), spec)
    except (TypeError, ValueError):
        return str(value)  # figures of a user's own get_metrics


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
