"""ProgressBar: how far the run is, on a terminal or in a notebook; otherwise in plain lines."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.callbacks.progress_displays import Display, Track, choose_display
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer

LINE_EVERY_N_SECONDS = 30.0
"""Seconds from one line to the next within an epoch, by default."""

NUMBERS = {
    "sanity": "num_sanity_val_batches",
    "validate": "num_val_batches",
    "test": "num_test_batches",
    "predict": "num_predict_batches",
}
"""The Trainer's attribute that has the numbers of batches of a stage, one for each data loader."""


class WhenShown:
    """A batch hook of `ProgressBar` that costs nothing where it draws nothing.

    On the class it is `Callback`'s own, so that a run finds nobody listening; `ProgressBar.setup` puts it on the
    instance where the display needs it. A subclass that overrides the hook reaches it through `super()`.

    Args:
        method: the name of what it does.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: ProgressBar | None, owner: type) -> Callable[..., None]:
        if instance is None:
            unheard: Callable[..., None] = getattr(Callback, self.name)
            return unheard
        reached: Callable[..., None] = getattr(instance, self.method)
        return reached


class ProgressBar(Callback):
    """Shows batches, speed and the metrics logged with `prog_bar=True` of every stage, on global rank 0.

    On a terminal where rich is installed, and in a notebook, bars are redrawn; otherwise an epoch of training prints
    a line, and so do validate, test and predict, with further lines on the way if they take long. Reading a metric
    waits for the device, so it is done only when something is drawn. Override `get_metrics` to show other figures, or
    the descriptions to name the stages.

    Args:
        refresh_rate: redraws per second at most; 0 shows nothing at all.
        leave: keep the bar of each epoch rather than that of the last alone.
        line_every_n_seconds: where lines are printed, the seconds after which an epoch prints one on its way, and the
            next; 0 for a line a batch, None for that of its end alone.
    """

    train_description = "epoch"
    sanity_check_description = "sanity check"
    validation_description = "validation"
    test_description = "test"
    predict_description = "prediction"

    on_train_batch_end: Any = WhenShown("advance")
    on_validation_batch_end: Any = WhenShown("advance")
    on_test_batch_end: Any = WhenShown("advance")
    on_predict_batch_end: Any = WhenShown("advance")

    # Lines are printed when the next batch begins: unlike the end, that hook needs nothing made for it.
    on_train_batch_start: Any = WhenShown("print_line_if_due")
    on_validation_batch_start: Any = WhenShown("print_line_if_due")
    on_test_batch_start: Any = WhenShown("print_line_if_due")
    on_predict_batch_start: Any = WhenShown("print_line_if_due")

    @answering
    def __init__(
        self,
        refresh_rate: float = 8.0,
        leave: bool = False,
        line_every_n_seconds: float | None = LINE_EVERY_N_SECONDS,
    ) -> None:
        if not isinstance(refresh_rate, (int, float)) or refresh_rate < 0:
            raise ConfigurationError(
                f"{type(self).__name__}(refresh_rate={refresh_rate!r}): must be a number from 0, which shows nothing"
            )
        if line_every_n_seconds is not None and not (
            isinstance(line_every_n_seconds, (int, float)) and line_every_n_seconds >= 0
        ):
            raise ConfigurationError(
                f"{type(self).__name__}(line_every_n_seconds={line_every_n_seconds!r}): must be a number from 0, or "
                "None for a line at the end alone"
            )
        self.refresh_rate = refresh_rate
        self.leave = leave
        self.line_every_n_seconds = line_every_n_seconds
        self._enabled = True
        self._trainer: Trainer | None = None
        self._fitting = False
        self._display: Display | None = None
        self._tracks: list[Track] = []
        self._next_draw = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal and the run behind."""
        rest = {name: value for name, value in vars(self).items() if not _is_batch_hook(name)}
        return {**rest, "_trainer": None, "_display": None, "_tracks": []}

    # --- for subclasses ---------------------------------------------------------------------------------

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The figures to show: numbers, 0-dim tensors or text, by name."""
        return dict(trainer.progress_bar_metrics)

    def make_display(self) -> Display:
        """What to show them on; asked for in each run, on global rank 0."""
        return choose_display(leave=self.leave)

    def due(self, done: int) -> bool:
        """Whether to redraw after so many batches."""
        return self.time_to_draw(self.refresh_rate)

    def time_to_draw(self, per_second: float) -> bool:
        """Whether the last redraw is long enough ago; if so, the time is counted from now."""
        now = time.perf_counter()
        if now < self._next_draw:
            return False
        self._next_draw = now + 1.0 / per_second
        return True

    @property
    def trainer(self) -> Trainer:
        """The Trainer of the run.

        Raises:
            ConfigurationError: there has been none in this process.
        """
        if self._trainer is None:
            raise ConfigurationError(
                f"{type(self).__name__} has seen no run yet; its trainer is there from setup on"
            )
        return self._trainer

    @property
    def total_train_batches(self) -> int | float:
        """Batches of an epoch of training; infinite where that is not known."""
        number = self.trainer.num_training_batches
        return math.inf if number is None else number

    @property
    def is_enabled(self) -> bool:
        """Whether it shows anything."""
        return self._enabled and self.refresh_rate > 0

    @property
    def is_disabled(self) -> bool:
        """Whether it shows nothing."""
        return not self.is_enabled

    def enable(self) -> None:
        """Show progress again, from the next run on."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing, from now on."""
        self._enabled = False
        self._close()

    def print(self, *values: Any, sep: str = " ") -> None:
        """Print a line above the bars."""
        line = sep.join(map(str, values))
        if self._display is None:
            print(line, file=sys.stderr)
        else:
            self._display.print(line)

    # --- the run ----------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the display, and listen to batches if it shows them."""
        self._trainer, self._fitting = trainer, stage == "fit"
        self._close()
        if trainer.is_global_zero and self.is_enabled:
            self._display = self.make_display()
            if self._display.live:
                self._listen("advance")
            elif self.line_every_n_seconds is not None:
                self._listen("print_line_if_due")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the display."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the display, so that the error stands below it."""
        self._close()

    def _listen(self, method: str) -> None:
        for name, hook in vars(ProgressBar).items():
            wanted = isinstance(hook, WhenShown) and hook.method == method
            if wanted and getattr(type(self), name) is getattr(Callback, name):
                vars(self)[name] = getattr(self, method)

    def _close(self) -> None:
        for name in list(vars(self)):
            if _is_batch_hook(name):
                del vars(self)[name]
        self._tracks.clear()
        if self._display is not None:
            self._display.close()
            self._display = None

    # --- its stages -------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch's bar."""
        last = trainer.options.last_epoch
        of = f"/{int(last)}" if last != math.inf else ""
        title = f"{self.train_description} {trainer.current_epoch + 1}{of}"
        self._begin("train", title, [trainer.num_training_batches], updates=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw an epoch's last state."""
        if self._tracks:
            self._tracks[-1].done = trainer.progress.batch
        self._end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the display."""
        self._close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation's bar, or that of the sanity check."""
        trying = trainer.sanity_checking
        title = self.sanity_check_description if trying else self.validation_description
        stage = "sanity" if trying else "validate"
        self._begin(stage, title, getattr(trainer, NUMBERS[stage]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw its last state."""
        self._end(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the test's bar."""
        self._begin("test", self.test_description, trainer.num_test_batches)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw its last state."""
        self._end(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the prediction's bar."""
        self._begin("predict", self.predict_description, trainer.num_predict_batches)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw its last state."""
        self._end(trainer, pl_module)

    def _begin(self, stage: str, title: str, totals: list[Any], updates: int | None = None) -> None:
        if self._display is None:
            return
        known = [None if total in (None, math.inf) else int(total) for total in totals]
        passing = self._fitting and stage != "train"
        track = Track(self._display, title, known, passing=passing, updates_before=updates)
        # A validation amid an epoch does not put the epoch's next line off.
        if self._display.live or self.line_every_n_seconds is None:
            self._next_draw = 0.0
        elif not self._tracks:
            self._next_draw = time.perf_counter() + self.line_every_n_seconds
        self._tracks.append(track)

    def advance(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take note of a batch that is done, and redraw if it is time to."""
        if self._display is None or not self._display.live or not self._tracks:
            return
        track = self._tracks[-1]
        track.reach(dataloader_idx, batch_idx + 1)
        if self.due(batch_idx + 1):
            track.draw(trainer.global_step, self.get_metrics(trainer, pl_module))

    def print_line_if_due(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print how far the stage is before a batch, where lines are printed and the last one is long enough ago."""
        every = self.line_every_n_seconds
        if not batch_idx or every is None or (now := time.perf_counter()) < self._next_draw:
            return
        if self._display is not None and not self._display.live and self._tracks:
            self._next_draw = now + every
            metrics = self.get_metrics(trainer, pl_module)
            self._tracks[-1].glance(dataloader_idx, batch_idx, trainer.global_step, metrics)

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._tracks:
            return
        track = self._tracks.pop()
        # nobody sees a bar that vanishes, and reading metrics would wait for the device
        track.end(
            trainer.global_step, {} if track.passing else self.get_metrics(trainer, pl_module)
        )
        if self._tracks:
            self._tracks[-1].away += track.elapsed()


def _is_batch_hook(name: str) -> bool:
    return isinstance(vars(ProgressBar).get(name), WhenShown)
