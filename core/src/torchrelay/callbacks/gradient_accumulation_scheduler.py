"""GradientAccumulationScheduler: how many micro-batches make an update, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class GradientAccumulationScheduler(Callback):
    """Changes `accumulate_grad_batches` from certain epochs on: `{0: 8, 4: 2}` takes 8, and 2 from the fifth epoch.

    Args:
        scheduling: index of an epoch, from 0, -> micro-batches whose gradients make one update from there on; 1
            before the first.

    Attributes:
        scheduling: the same, complete from epoch 0 on.

    Raises:
        ConfigurationError: an epoch or a number is none.
    """

    @answering
    def __init__(self, scheduling: dict[int, int]) -> None:
        if not isinstance(scheduling, Mapping) or not scheduling:
            raise ConfigurationError(
                f"GradientAccumulationScheduler(scheduling={scheduling!r}): must be a dict of epochs and numbers of "
                "micro-batches, such as {0: 8, 4: 2}"
            )
        for epoch, number in scheduling.items():
            if not _is_whole(epoch, 0) or not _is_whole(number, 1):
                raise ConfigurationError(
                    f"GradientAccumulationScheduler(scheduling={{{epoch!r}: {number!r}}}): the epoch must be a whole "
                    "number from 0, and the micro-batches a whole number from 1"
                )
        self.scheduling = {0: 1, **scheduling}
        self._at_work = False

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether any epoch accumulates."""
        return any(number > 1 for number in self.scheduling.values())

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """Micro-batches an update in an epoch, counted from 0."""
        return self.scheduling[max(start for start in self.scheduling if start <= epoch)]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what else decides when to update.

        Raises:
            ConfigurationError: the Trainer accumulates, or the module optimizes by itself.
        """
        fixed = trainer.options.accumulate_grad_batches
        if fixed != 1:
            raise ConfigurationError(
                f"Trainer(accumulate_grad_batches={fixed}) and GradientAccumulationScheduler({self.scheduling}) both "
                "say how many micro-batches make an update; leave one of them out"
            )
        if not pl_module.automatic_optimization:
            raise ConfigurationError(
                f"GradientAccumulationScheduler needs automatic optimization, and {type(pl_module).__name__} has "
                "automatic_optimization = False; call step() after as many backward passes as you like in its "
                "training_step, and leave the callback out"
            )
        self._at_work = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the number for the epoch."""
        trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the Trainer its own number back, for another fit."""
        if self._at_work:
            self._at_work = False
            trainer.accumulate_grad_batches = 1


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
