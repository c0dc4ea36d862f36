"""What a module knows of its driver and of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer


class ModuleFacts(nn.Module):
    """The read-only side of a module; without a Trainer it is alone, and at the beginning."""

    example_input_array: Any = None
    """A batch to show the module's shapes with; loggers that draw its graph read it."""

    _trainer: Trainer | None

    @property
    def trainer(self) -> Trainer:
        """The Trainer that drives this module at present.

        Raises:
            ConfigurationError: none does.
        """
        if self._trainer is None:
            raise ConfigurationError(
                f"{type(self).__name__} is attached to no Trainer; self.trainer is there during fit, validate, test "
                "and predict"
            )
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self._trainer = trainer

    @property
    def current_epoch(self) -> int:
        """Epochs completed; 0 without a Trainer."""
        return self._trainer.current_epoch if self._trainer is not None else 0

    @property
    def global_step(self) -> int:
        """Weight updates made; 0 without a Trainer."""
        return self._trainer.global_step if self._trainer is not None else 0

    @property
    def global_rank(self) -> int:
        """This process's global rank; 0 without a Trainer."""
        return self._trainer.strategy.global_rank if self._trainer is not None else 0

    @property
    def local_rank(self) -> int:
        """This process's rank on its node; 0 without a Trainer."""
        return self._trainer.strategy.local_rank if self._trainer is not None else 0

    @property
    def device(self) -> torch.device:
        """Device of the module's parameters, or of its buffers if it has none."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Format of the module's first parameter of floating point, or of its buffers if it has none."""
        found = (t for t in (*self.parameters(), *self.buffers()) if t.is_floating_point())
        return next((tensor.dtype for tensor in found), torch.get_default_dtype())

    @property
    def on_gpu(self) -> bool:
        """Whether the module is on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def logger(self) -> Any:
        """The Trainer's first logger, or None."""
        return self._trainer.logger if self._trainer is not None else None

    @property
    def loggers(self) -> list[Any]:
        """The Trainer's loggers; none without a Trainer."""
        return self._trainer.loggers if self._trainer is not None else []
