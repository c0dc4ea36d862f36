"""Train in processes that this one spawns, and leave what came back.

python spawned.py STRATEGY

STRATEGY is JSON; see `problems.strategy_of`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from problems import BATCH, STEPS, Regression, leave, loader, quiet, state_of, strategy_of

from torchrelay.callbacks import Callback


class Inside(Callback):
    """Leaves who trains."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        kinds = [type(each).__name__ for each in trainer.optimizers]
        leave("inside", trainer.global_rank, {"pid": os.getpid(), "optimizers": kinds})


def main(asked: Any) -> None:
    outcomes = []
    for devices in (2, 1):
        torch.manual_seed(3)
        module = Regression("adamw")
        trainer = quiet(
            strategy=strategy_of(asked) if devices == 2 else "single_device",
            devices=devices,
            max_steps=STEPS,
            callbacks=[Inside()] if devices == 2 else [],
        )
        trainer.fit(module, loader(BATCH // devices), loader(BATCH // devices))
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        outcomes.append((state_of(module), metrics, trainer.global_step))
    (state, metrics, steps), (expected, expected_metrics, _) = outcomes
    caller = {"pid": os.getpid(), "state": state, "metrics": metrics, "steps": steps}
    leave("caller", 0, {**caller, "expected": expected, "expected_metrics": expected_metrics})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
