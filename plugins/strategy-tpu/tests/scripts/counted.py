"""Count what XLA compiles and runs, epoch by epoch.

python counted.py STRATEGY DEVICES
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from problems import BATCH, BATCHES, OPTIMIZERS, Regression, leave, loader, quiet
from torch import nn

from torchrelay.callbacks import Callback
from torchrelay_tpu import vendor


def counts() -> dict[str, int]:
    """What has been compiled and run, when nothing is under way."""
    import torch_xla.core.xla_model as xm

    xm.wait_device_ops()
    return vendor.counters()


class Count(Callback):
    """Keeps the counts of each epoch, from its first batch to its last."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, int]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = counts()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        now = counts()
        self.epochs.append({name: now[name] - self.begun[name] for name in now})


class Ends(Callback):
    """Reads what was logged, at each step."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        float(trainer.callback_metrics["loss"])


def counted(
    module: Regression,
    strategy: str,
    devices: int | list[int],
    *callbacks: Callback,
    **options: Any,
) -> list[dict[str, int]]:
    count = Count()
    number = options.pop("number", BATCH * BATCHES)
    trainer = quiet(
        strategy=strategy,
        accelerator="tpu",
        devices=devices,
        max_epochs=3,
        callbacks=[count, *callbacks],
        **options,
    )
    trainer.fit(module, loader(number))
    return count.epochs


def bare(number: int = BATCH * BATCHES) -> list[dict[str, int]]:
    """The loop that one would write with torch-xla, on one device."""
    import torch_xla
    from torch_xla.distributed.parallel_loader import MpDeviceLoader

    device, module = torch_xla.device(), Regression()
    module.to(device)
    module.again.weight = module.hidden.weight
    optimizer = OPTIMIZERS["adamw"](module.parameters())
    found = []
    for _ in range(3):
        begun = counts()
        for x, y in MpDeviceLoader(loader(number), device):
            optimizer.zero_grad()
            module.seen += 1
            nn.functional.mse_loss(module(x), y).backward()
            optimizer.step()
        torch_xla.sync(wait=True)
        found.append({name: value - begun[name] for name, value in counts().items()})
    return found


def main(strategy: str, devices: int) -> None:
    ragged = BATCH * BATCHES - 4
    found: dict[str, Any] = {}
    if strategy == "single_tpu":
        found["bare"] = bare()
        found["bare, ragged"] = bare(ragged)
        found["on the second"] = counted(Regression(), strategy, [1])
    found["fixed"] = counted(Regression(), strategy, devices)
    found["ragged"] = counted(Regression(), strategy, devices, number=ragged)
    found["logged"] = counted(Regression(logs=True), strategy, devices)
    found["read"] = counted(Regression(logs=True), strategy, devices, Ends())
    found["accumulated"] = counted(Regression(), strategy, devices, accumulate_grad_batches=2)
    leave("counted", found)


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1], int(sys.argv[2]))
