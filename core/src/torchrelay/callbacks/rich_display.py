"""RichDisplay: bars on a terminal, drawn by rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from torchrelay.callbacks.progress_displays import Bar, Display, Reading
from torchrelay.callbacks.rich_progress import RichProgressBarTheme


class RichDisplay(Display):
    """Bars on a terminal, one below the other.

    Args:
        console: where to draw; stderr when None.
        theme: the styles.
        leave: keep the bar of each epoch.
    """

    def __init__(
        self,
        console: Console | None = None,
        theme: RichProgressBarTheme | None = None,
        *,
        leave: bool = False,
    ) -> None:
        self.theme = theme or RichProgressBarTheme()
        self._leave = leave
        self._last: _RichBar | None = None
        self._open = False
        style = self.theme
        self._progress = Progress(
            TextColumn("{task.description}", style=style.description),
            BarColumn(
                24,
                complete_style=style.progress_bar,
                finished_style=style.progress_bar_finished,
                pulse_style=style.progress_bar_pulse,
            ),
            TextColumn("{task.fields[count]}", style=style.batch_progress, markup=False),
            TextColumn("{task.fields[clock]}", style=style.time, markup=False),
            TextColumn("{task.fields[rate]}", style=style.processing_speed, markup=False),
            TextColumn("{task.fields[metrics]}", style=style.metrics, markup=False),
            console=console or Console(stderr=True),
            auto_refresh=False,
        )

    def begin(self, title: str, total: int | None, *, passing: bool) -> Bar:
        """Add a bar, in the place of the one that has ended."""
        if not self._open:
            self._open = True
            self._progress.start()
        bar = _RichBar(self._progress, self.theme, title, total, passing)
        if not passing:
            if self._last is not None and not self._leave:
                self._last.remove()
            self._last = bar
        return bar

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Give the terminal back."""
        if self._open:
            self._open = False
            self._progress.stop()


class _RichBar(Bar):
    def __init__(
        self,
        progress: Progress,
        theme: RichProgressBarTheme,
        title: str,
        total: int | None,
        passing: bool,
    ) -> None:
        self._progress = progress
        self._theme = theme
        self._passing = passing
        empty: dict[str, Any] = dict.fromkeys(("count", "clock", "rate", "metrics"), "")
        self._task = progress.add_task(title, total=total, **empty)

    def name(self, title: str, total: int | None) -> None:
        """Go on with the next data loader."""
        self._progress.reset(self._task, total=total, description=title)

    def draw(self, reading: Reading) -> None:
        """Redraw."""
        self._progress.update(
            self._task,
            completed=reading.done or 0,
            count=reading.count,
            clock=reading.clock,
            rate=reading.rate,
            metrics=reading.text(self._theme.metrics_format, self._theme.metrics_text_delimiter),
            refresh=True,
        )

    def end(self, reading: Reading) -> None:
        """Leave the bar as it stands; one within another is gone."""
        if self._passing:
            self.remove()
        else:
            self.draw(reading)

    def remove(self) -> None:
        """Take it away."""
        self._progress.remove_task(self._task)
