"""Train under Horovod in processes that the strategy starts, or that are there, and leave what each arrived at.

python started.py [START_METHOD]
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from problems import STEPS, Regression, leave, loader, quiet, state_of

from torchrelay.callbacks import Callback
from torchrelay_horovod import HorovodStrategy


class Inside(Callback):
    """Leaves who trains, and how."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        facts = {
            "pid": os.getpid(),
            "environment": trainer.strategy.cluster_environment.name,
            "launcher": getattr(trainer.strategy.launcher, "name", None),
            "variables": sorted(n for n in os.environ if n.startswith("HOROVOD_")),
            "state": state_of(pl_module),
        }
        leave("inside", trainer.global_rank, facts)


def main(method: str = "auto") -> None:
    for _ in range(2):  # a program may fit more than once
        torch.manual_seed(3)
        module = Regression("adamw")
        strategy = "horovod" if method == "auto" else HorovodStrategy(start_method=method)  # type: ignore[arg-type]
        trainer = quiet(
            strategy=strategy,
            devices=2,
            max_steps=STEPS,
            precision="64-true",
            callbacks=[Inside()],
        )
        trainer.fit(module, loader(4))
    torch.manual_seed(3)
    expected = Regression("adamw")
    if os.environ.get("TORCHRELAY_WORKER") is None and "HOROVOD_RANK" not in os.environ:
        alone = quiet(strategy="single_device", devices=1, max_steps=STEPS, precision="64-true")
        alone.fit(expected, loader(8))
        caller = {"pid": os.getpid(), "state": state_of(module), "expected": state_of(expected)}
        leave("caller", 0, caller)


if __name__ == "__main__":
    main(*sys.argv[1:])
