"""ThroughputMonitor: records how many batches and samples training takes in a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class _Point(NamedTuple):
    seconds: float
    batches: int
    samples: int
    items: int


class ThroughputMonitor(Callback):
    """Gives the loggers rank 0's speed of training, when they get the metrics of training.

    Figures are `train/time` (seconds), `train/batches` and `train/samples` so far, and over the latest batches
    `train/device/batches_per_sec` and `train/device/samples_per_sec`; with several ranks also
    `train/batches_per_sec` and `train/samples_per_sec` of them all. Validation does not count. The device is waited
    for only when figures are recorded.

    Args:
        batch_size_fn: the number of samples of a batch.
        length_fn: the number of items, such as tokens, of a batch; adds `train/lengths` and `.../items_per_sec`.
        window_size: so many of the latest batches count, rounded up to the last time of recording.
        separator: what stands between the parts of a name.
    """

    @answering
    def __init__(
        self,
        batch_size_fn: Callable[[Any], int],
        length_fn: Callable[[Any], int] | None = None,
        window_size: int = 100,
        separator: str = "/",
    ) -> None:
        if not callable(batch_size_fn):
            raise ConfigurationError(
                f"ThroughputMonitor(batch_size_fn={batch_size_fn!r}): must be a function, such as "
                "lambda batch: len(batch[0])"
            )
        if not isinstance(window_size, int) or isinstance(window_size, bool) or window_size < 2:
            raise ConfigurationError(
                f"ThroughputMonitor(window_size={window_size!r}): must be a whole number from 2"
            )
        self.batch_size_fn = batch_size_fn
        self.length_fn = length_fn
        self.window_size = window_size
        self.separator = separator
        self._points: deque[_Point] = deque()
        self._started = self._validation_started = 0.0
        self._batches = self._samples = self._items = self._recorded_at = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to fit without a logger."""
        if stage == "fit" and not trainer.loggers and not trainer.options.fast_dev_run:
            raise ConfigurationError(
                "ThroughputMonitor has no logger to give figures to; pass Trainer(logger=CSVLogger(...)), or leave "
                "the callback out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._batches = self._samples = self._items = 0
        self._recorded_at = trainer.global_step
        self._started = time.perf_counter()
        self._points = deque([_Point(0.0, 0, 0, 0)])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the time of validation."""
        self._validation_started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on counting."""
        self._started += time.perf_counter() - self._validation_started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and record after the updates whose metrics loggers get."""
        self._batches += 1
        self._samples += self.batch_size_fn(batch)
        if self.length_fn is not None:
            self._items += self.length_fn(batch)
        step, every = trainer.global_step, trainer.options.steps_to_log
        if step // every > self._recorded_at // every:
            self._recorded_at = step
            if trainer.is_global_zero:
                self._record(trainer)

    def _record(self, trainer: Trainer) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # what was only enqueued has not been done yet
        seconds = time.perf_counter() - self._started
        self._points.append(_Point(seconds, self._batches, self._samples, self._items))
        while len(self._points) > 2 and self._batches - self._points[1].batches >= self.window_size:
            self._points.popleft()
        named = {f"train{self.separator}{name}": v for name, v in self._figures(trainer).items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)

    def _figures(self, trainer: Trainer) -> dict[str, float]:
        first, last = self._points[0], self._points[-1]
        figures = {"time": last.seconds, "batches": last.batches, "samples": last.samples}
        rates = {"batches": last.batches - first.batches, "samples": last.samples - first.samples}
        if self.length_fn is not None:
            figures["lengths"] = last.items
            rates["items"] = last.items - first.items
        elapsed, ranks = last.seconds - first.seconds, trainer.world_size
        for name, number in rates.items():
            figures[f"device{self.separator}{name}_per_sec"] = number / elapsed
            if ranks > 1:
                figures[f"{name}_per_sec"] = number / elapsed * ranks
        return figures
