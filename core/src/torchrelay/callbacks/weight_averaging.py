"""WeightAveraging: an average of the weights that training passes through, for validation and as its result."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError
from torchrelay.plugin.specs import Capability

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class WeightAveraging(Callback):
    """Averages the weights after each update; validates with the average, and leaves it in the module after fit.

    Every average counts the same unless `avg_fn` or `multi_avg_fn` say otherwise; see
    `torch.optim.swa_utils.AveragedModel`. A checkpoint's `state_dict` is the average, and `current_model_state` the
    weights to train on from, as in Lightning. Each rank averages for itself, so every rank must hold all weights.

    Args:
        device: where to keep the average; with the module when None.
        use_buffers: average buffers too, such as the statistics of batch norm; otherwise they are the module's.
        **kwargs: further arguments of `AveragedModel`.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        **kwargs: Any,
    ) -> None:
        self.device = None if device is None else torch.device(device)
        self.use_buffers = use_buffers
        self.kwargs = kwargs
        self._average: AveragedModel | None = None
        self._resumed: dict[str, Any] | None = None
        self._latest_update = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the average behind; a checkpoint holds it."""
        return {**self.__dict__, "_average": None, "_resumed": None}

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to take the weights into the average; override to choose.

        Args:
            step_idx: index of the update that was made, from 0; None at the end of an epoch.
            epoch_idx: index of the epoch that ends, from 0; None after an update.
        """
        return step_idx is not None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run's average."""
        self._average = self._resumed = None

    # --- averaging --------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from the module's weights, or from those of the checkpoint.

        Raises:
            ConfigurationError: this rank does not hold all weights.
        """
        require_whole_weights(type(self).__name__, trainer, pl_module)
        if self._resumed is not None:
            trainer.strategy.load_model_state(self._resumed["current_model_state"])
        self._average = self._begin(pl_module)
        if self._resumed is not None:
            named = {f"module.{name}": v for name, v in self._resumed["state_dict"].items()}
            self._average.load_state_dict({**named, **self._resumed["averaging_state"]})
        self._resumed, self._latest_update = None, trainer.global_step

    def _begin(self, module: LightningModule) -> AveragedModel:
        return AveragedModel(
            module, device=self.device, use_buffers=self.use_buffers, **self.kwargs
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights, if the batch has made an update."""
        step = trainer.global_step
        if step > self._latest_update and self.should_update(step_idx=step - 1):
            self._latest_update = step
            self._need().update_parameters(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the weights, if they are asked for by epoch."""
        if self.should_update(epoch_idx=trainer.current_epoch):
            self._need().update_parameters(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average into the module."""
        if self._average is not None:
            _swap(self._average.module, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights that are trained back."""
        if self._average is not None:
            _swap(self._average.module, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        _copy(self._need().module, pl_module)
        self._average = None

    def _need(self) -> AveragedModel:
        if self._average is None:
            raise ConfigurationError(
                f"{type(self).__name__} averages during fit alone, and no fit is under way"
            )
        return self._average

    # --- checkpoints ------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the average the checkpoint's model, and keep the weights that are trained beside it."""
        if self._average is None:
            return
        state = self._average.state_dict()
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name.removeprefix("module."): value.cpu().clone()
            for name, value in state.items()
            if name.startswith("module.")
        }
        checkpoint["averaging_state"] = {
            name: value.cpu().clone()
            for name, value in state.items()
            if not name.startswith("module.")
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note what to go on from; a checkpoint without an average is where one begins."""
        names = ("state_dict", "current_model_state", "averaging_state")
        found = {name: checkpoint[name] for name in names if name in checkpoint}
        self._resumed = found if len(found) == len(names) else None


class EMAWeightAveraging(WeightAveraging):
    """Keeps an exponential moving average: `decay` of the average and the rest of the new weights.

    Args:
        device: where to keep the average; with the module when None.
        use_buffers: average buffers too.
        decay: from 0 to 1; the nearer to 1, the longer it remembers.
        update_every_n_steps: updates between two that are taken in.
        update_starting_at_step: index of the first update to take in; None for the first.
        update_starting_at_epoch: index of the epoch from which the weights at its end are taken in too; None for never.
        **kwargs: further arguments of `torch.optim.swa_utils.AveragedModel`.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ConfigurationError(f"EMAWeightAveraging(decay={decay!r}): must be from 0 to 1")
        if not isinstance(update_every_n_steps, int) or update_every_n_steps < 1:
            raise ConfigurationError(
                f"EMAWeightAveraging(update_every_n_steps={update_every_n_steps!r}): must be a whole number from 1"
            )
        self.decay = decay
        super().__init__(device, use_buffers, avg_fn=get_ema_avg_fn(decay), **kwargs)  # type: ignore[no-untyped-call]
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the update, or the epoch, is one of those to take in."""
        if step_idx is not None:
            late_enough = step_idx >= (self.update_starting_at_step or 0)
            return late_enough and step_idx % self.update_every_n_steps == 0
        if epoch_idx is None or self.update_starting_at_epoch is None:
            return False
        return epoch_idx >= self.update_starting_at_epoch


def require_whole_weights(name: str, trainer: Trainer, module: nn.Module) -> None:
    """Refuse a module of which this rank holds a part: declared so, sharded tensors, or placeholders without elements.

    Args:
        name: who needs the weights.
        trainer: whose strategy has placed the module.
        module: the module.

    Raises:
        UserError: it is.
    """
    trainer.strategy.require(Capability.WHOLE_WEIGHTS, name)
    parts = [key for key, weight in module.named_parameters() if not _is_whole(weight)]
    if parts:
        raise ConfigurationError(
            f"{name} averages whole weights on each rank, and {type(trainer.strategy).__name__} holds no more than a "
            f"part of {parts[0]} here ({len(parts)} such parameters); leave the callback out, or take a strategy that "
            "does not shard parameters, such as 'ddp'"
        )


def _is_whole(weight: nn.Parameter) -> bool:
    if isinstance(weight, UninitializedParameter):
        return False
    # a DTensor is told by its mesh; its class need not be imported to ask
    return bool(weight.numel()) and getattr(weight, "device_mesh", None) is None


def _tensors(module: nn.Module) -> chain[torch.Tensor]:
    return chain(module.parameters(), module.buffers())


@torch.no_grad()
def _swap(one: nn.Module, other: nn.Module) -> None:
    for mine, its in zip(_tensors(one), _tensors(other), strict=True):
        kept = mine.detach().clone()
        mine.copy_(its)
        its.copy_(kept)


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    for its, mine in zip(_tensors(source), _tensors(target), strict=True):
        mine.copy_(its)
