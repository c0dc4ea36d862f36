"""Train under DDP2 with its options, as one machine of several; alone without a strategy, for comparison.

python ddp2.py MACHINES
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import torch
from problems import BATCH, STEPS, Regression, data, leave, quiet, state_of
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from torchrelay.callbacks import Callback
from torchrelay_ddp import DDP2Strategy

TIMEOUT = timedelta(seconds=41)


class Counting(DistributedDataParallel):
    """Counts the batches whose gradients stay local."""

    local = 0

    def no_sync(self) -> Any:
        self.local += 1
        return super().no_sync()


class CountingDDP2(DDP2Strategy):
    """As a user would write it."""

    def configure_ddp(self) -> None:
        self.model = Counting(self.model, **self.ddp_arguments)


class Watch(Callback):
    """Notes how the model is wrapped and how processes are connected."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        model = trainer.strategy.model
        self.bucket_view = getattr(model, "gradient_as_bucket_view", None)
        self.local = getattr(model, "local", None)
        if torch.distributed.is_initialized():
            backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
            self.timeout = backend.options._timeout


def fit(machines: int, strategy: Any, **arguments: Any) -> dict[str, Any]:
    torch.manual_seed(3)
    module, watch = Regression(), Watch()
    options = {"max_steps": STEPS, "num_nodes": machines, "devices": 1, **arguments}
    trainer = quiet(strategy=strategy, callbacks=watch, **options)
    trainer.fit(module, DataLoader(data(), batch_size=BATCH // machines))
    return {"state": state_of(module), "rank": trainer.global_rank, **vars(watch)}


def main(machines: int) -> None:
    alone = machines == 1
    accumulating = "single_device" if alone else CountingDDP2(timeout=TIMEOUT)
    compressing = "single_device" if alone else DDP2Strategy(ddp_comm_hook=fp16_compress_hook)
    outcomes = {
        "accumulated": fit(machines, accumulating, precision="64-true", accumulate_grad_batches=3),
        "compressed": fit(machines, compressing, precision="32-true"),
    }
    leave(f"ddp2-{machines}", outcomes["accumulated"]["rank"], outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]))
