"""Train with strategies of the user's own: one that wraps the model itself, one given components."""

from __future__ import annotations

from typing import Any

import torch
from problems import BATCH, STEPS, Regression, data, leave, quiet, state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from torchrelay.accelerators import CPUAccelerator
from torchrelay.callbacks import Callback
from torchrelay.precision import TruePrecision
from torchrelay.strategies import DDPStrategy


class MyDistributedDataParallel(DistributedDataParallel):
    """A wrapper of the user's own."""


class CustomDDPStrategy(DDPStrategy):
    """As in Lightning's reference."""

    def configure_ddp(self) -> None:
        self.model = MyDistributedDataParallel(self.model, device_ids=self.device_ids)


class MyAccelerator(CPUAccelerator):
    """Notes which devices it set up."""

    def __init__(self) -> None:
        self.set_up: list[str] = []

    def setup_device(self, device: torch.device) -> None:
        self.set_up.append(str(device))


class MyPrecision(TruePrecision):
    """64 bits; counts the batches that it converts."""

    def __init__(self) -> None:
        super().__init__("64-true")
        self.converted = 0

    def convert_batch(self, batch: Any) -> Any:
        self.converted += 1
        return super().convert_batch(batch)


class WrapperName(Callback):
    """Notes what wraps the model."""

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        self.name = type(trainer.strategy.model).__name__


def fit(strategy: DDPStrategy, **arguments: Any) -> tuple[dict[str, torch.Tensor], str]:
    torch.manual_seed(3)
    module, wrapper = Regression("adamw"), WrapperName()
    trainer = quiet(strategy=strategy, devices=2, max_steps=STEPS, callbacks=wrapper, **arguments)
    trainer.fit(module, DataLoader(data(), batch_size=BATCH // 2))
    return state_of(module), wrapper.name


def main() -> None:
    accelerator, precision = MyAccelerator(), MyPrecision()
    overridden, own = fit(CustomDDPStrategy(), precision="64-true")
    components = CustomDDPStrategy(accelerator=accelerator, precision_plugin=precision)
    given, same = fit(components, accelerator="auto")
    result = {
        "overridden": overridden,
        "components": given,
        "wrapped": [own, same],
        "converted": precision.converted,
        "set_up": accelerator.set_up,
    }
    leave("custom", components.global_rank, result)


if __name__ == "__main__":
    main()
