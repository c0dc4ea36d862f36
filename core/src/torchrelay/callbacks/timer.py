"""Timer: tells how long stages take, and ends training after some time."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer

_DURATION = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")
_STAGES = ("train", "validate", "test")


class Timer(Callback):
    """Tells how long training and the latest validation and test take, and ends training after some time.

    The time that a resumed run has trained before counts. Ranks stop together, by the clock of rank 0; with
    `interval="step"` asking it is a collective operation after each batch. `min_epochs` and `min_steps` of the
    Trainer hold.

    Args:
        duration: training time after which to stop: a `datetime.timedelta`, its arguments as a dict, or
            "DD:HH:MM:SS"; None never stops.
        interval: "step" looks at the clock after each batch, "epoch" after each epoch.
        verbose: say on stderr that the time is up.
    """

    @answering
    def __init__(
        self,
        duration: str | timedelta | Mapping[str, int] | None = None,
        interval: str = "step",
        verbose: bool = True,
    ) -> None:
        if interval not in ("step", "epoch"):
            raise ConfigurationError(f"Timer(interval={interval!r}): must be 'step' or 'epoch'")
        self.duration = None if duration is None else _seconds(duration)
        self.interval = interval
        self.verbose = verbose
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._before: dict[str, float] = {}

    # --- what it tells ----------------------------------------------------------------------------------

    def start_time(self, stage: str = "train") -> float | None:
        """When "train", "validate" or "test" began, in seconds of the monotonic clock; None if it has not."""
        return self._started.get(_known(stage))

    def end_time(self, stage: str = "train") -> float | None:
        """When it ended; None if it has not."""
        return self._ended.get(_known(stage))

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds that a stage has taken; training includes the runs from which this one was resumed."""
        before, started = self._before.get(stage, 0.0), self.start_time(stage)
        if started is None:
            return before
        return before + self._ended.get(stage, time.monotonic()) - started

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds until training ends; None without a duration."""
        return None if self.duration is None else self.duration - self.time_elapsed(stage)

    def state_dict(self) -> dict[str, Any]:
        """The seconds each stage has taken."""
        return {"time_elapsed": {stage: self.time_elapsed(stage) for stage in _STAGES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._before = {stage: float(t) for stage, t in state_dict["time_elapsed"].items()}
        self._started, self._ended = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        """Take the seconds to another process, whose clock may have another zero."""
        elapsed = self.state_dict()["time_elapsed"]
        return {**self.__dict__, "_started": {}, "_ended": {}, "_before": elapsed}

    # --- when it looks ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count; a time that is up already ends training before the first batch is over."""
        self._start("train")
        self._stop_if_over(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End training if the time is up."""
        if self.interval == "step":
            self._stop_if_over(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End training if the time is up."""
        if self.interval == "epoch":
            self._stop_if_over(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting."""
        self._end("train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._start("validate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting."""
        self._end("validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._start("test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting."""
        self._end("test")

    def _start(self, stage: str) -> None:
        self._started[stage] = time.monotonic()
        self._ended.pop(stage, None)

    def _end(self, stage: str) -> None:
        self._ended[stage] = time.monotonic()

    def _stop_if_over(self, trainer: Trainer) -> None:
        if self.duration is None or trainer.should_stop:
            return
        over = self.time_elapsed() >= self.duration
        if trainer.strategy.collectives.broadcast(over):
            trainer.should_stop = True
            if self.verbose and trainer.is_global_zero:
                took = timedelta(seconds=round(self.time_elapsed()))
                print(f"training time is up after {took}", file=sys.stderr)


def _known(stage: str) -> str:
    if stage not in _STAGES:
        raise ConfigurationError(f"Timer knows the stages {', '.join(_STAGES)}, not {stage!r}")
    return stage


def _seconds(duration: Any) -> float:
    made: timedelta | None = duration if isinstance(duration, timedelta) else None
    if isinstance(duration, Mapping):
        try:
            made = timedelta(**duration)
        except TypeError as error:
            raise ConfigurationError(f"Timer(duration={duration!r}): {error}") from error
    if isinstance(duration, str) and (match := _DURATION.fullmatch(duration.strip())):
        days, hours, minutes, seconds = map(int, match.groups())
        made = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if made is None or made < timedelta():
        raise ConfigurationError(
            f"Timer(duration={duration!r}): must be a datetime.timedelta, a dict of its arguments, or "
            "'DD:HH:MM:SS', such as '00:12:00:00' for twelve hours"
        )
    return made.total_seconds()
