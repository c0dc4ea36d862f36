"""DeviceStatsMonitor: records what memory the run takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchrelay.accelerators.cpu import CPUAccelerator
from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class DeviceStatsMonitor(Callback):
    """Gives the loggers rank 0's `Accelerator.memory_stats` with the metrics of training.

    Figures are those before and after the batch, named `DeviceStatsMonitor.on_train_batch_start/rss` and the like.

    Args:
        cpu_stats: True for the host's figures too where the device is another; False for none of the host's, also
            where it is the device.
    """

    @answering
    def __init__(self, cpu_stats: bool | None = None) -> None:
        if cpu_stats not in (None, False, True):
            raise ConfigurationError(
                f"DeviceStatsMonitor(cpu_stats={cpu_stats!r}): must be True, False or None"
            )
        self.cpu_stats = cpu_stats
        self._before = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to fit without a logger."""
        if stage == "fit" and not trainer.loggers and not trainer.options.fast_dev_run:
            raise ConfigurationError(
                "DeviceStatsMonitor has no logger to give figures to; pass Trainer(logger=CSVLogger(...)), or leave "
                "the callback out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the next update."""
        self._before = -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the figures before an update whose metrics loggers get."""
        update = trainer.global_step + 1
        if update % trainer.options.steps_to_log == 0 and self._before != update:
            self._before = update
            self._record(trainer, "on_train_batch_start", update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the figures after it."""
        if self._before == trainer.global_step:
            self._before = -1
            self._record(trainer, "on_train_batch_end", trainer.global_step)

    def _record(self, trainer: Trainer, moment: str, step: int) -> None:
        if not trainer.is_global_zero:
            return
        device = trainer.strategy.root_device
        if device.type == "cpu" and self.cpu_stats is False:
            return
        figures = trainer.strategy.accelerator.memory_stats(device)
        if self.cpu_stats and device.type != "cpu":
            host = CPUAccelerator().memory_stats(device)
            figures = {**figures, **{f"cpu_{name}": value for name, value in host.items()}}
        named = {f"{type(self).__name__}.{moment}/{name}": v for name, v in figures.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=step)
