"""ProgressBar: how far the run is, on a terminal with rich, otherwise in plain lines."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING, Any

from torchrelay.callbacks.callback import Callback

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class ProgressBar(Callback):
    """Shows epoch, batches, steps per second and the metrics logged with `prog_bar=True`, on global rank 0.

    On a terminal where rich is installed a bar is redrawn; otherwise each epoch prints a line. Reading a metric
    waits for the device, so it is done only when something is drawn.

    Args:
        refresh_rate: redraws per second at most.
    """

    def __init__(self, refresh_rate: float = 8.0) -> None:
        self.interval = 1.0 / refresh_rate
        self._display: Any = None
        self._next_draw = 0.0
        self._epoch_started = self._last_batch = 0.0
        self._steps_before = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal behind."""
        return {**self.__dict__, "_display": None}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the display."""
        if trainer.is_global_zero:
            self._display = _display()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch's bar."""
        self._epoch_started = self._last_batch = time.perf_counter()
        self._next_draw = 0.0
        self._steps_before = trainer.global_step
        if self._display is not None:
            self._display.begin(self._title(trainer), trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw, if the last time is long enough ago."""
        if self._display is None:
            return
        now = self._last_batch = time.perf_counter()
        if self._display.live and now >= self._next_draw:
            self._next_draw = now + self.interval
            self._display.draw(batch_idx + 1, self._text(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an epoch's last state."""
        if self._display is not None:
            self._display.end(trainer.progress.batch, self._text(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the display."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the display, so that the error stands below it."""
        self._close()

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def _title(self, trainer: Trainer) -> str:
        last = trainer.options.last_epoch
        total = f"/{int(last)}" if last != float("inf") else ""
        return f"epoch {trainer.current_epoch + 1}{total}"

    def _text(self, trainer: Trainer) -> str:
        elapsed = self._last_batch - self._epoch_started
        steps = trainer.global_step - self._steps_before
        shown = [f"{steps / elapsed:.1f} steps/s"] if elapsed else []
        for name, value in trainer.progress_bar_metrics.items():
            shown.append(f"{name}={float(value):.4g}")
        return "  ".join(shown)


def _display() -> Any:
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        return RichDisplay()
    return PlainDisplay()


class PlainDisplay:
    """One line an epoch."""

    live = False

    def begin(self, title: str, total: int | None) -> None:
        """Note what the line is about."""
        self._title, self._total = title, total

    def draw(self, done: int, text: str) -> None:
        """Print nothing before the epoch's end."""

    def end(self, done: int, text: str) -> None:
        """Print the epoch's line, in one write so that lines of several processes stay whole."""
        total = "" if self._total is None else f"/{self._total}"
        sys.stderr.write(f"{self._title}  {done}{total} batches  {text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing is open."""


class RichDisplay:
    """A bar that is redrawn, one for each epoch."""

    live = True

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._progress.start()
        self._task: Any = None

    def begin(self, title: str, total: int | None) -> None:
        """Add an epoch's bar."""
        self._task = self._progress.add_task(title, total=total, text="")

    def draw(self, done: int, text: str) -> None:
        """Redraw the epoch's bar."""
        self._progress.update(self._task, completed=done, text=text, refresh=True)

    def end(self, done: int, text: str) -> None:
        """Leave the epoch's bar as it stands."""
        self.draw(done, text)

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.stop()
