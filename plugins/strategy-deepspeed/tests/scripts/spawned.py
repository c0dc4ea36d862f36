"""Train in processes that this one spawns, and leave what came back.

python spawned.py STAGE
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from problems import BATCH, STEPS, Regression, leave, loader, quiet, state_of

from torchrelay.callbacks import Callback
from torchrelay_deepspeed import DeepSpeedConfig, DeepSpeedStrategy


class Inside(Callback):
    """Leaves who trains."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        stage = trainer.strategy.stage_of_zero
        leave("inside", trainer.global_rank, {"pid": os.getpid(), "strategy": stage})


def main(stage: int) -> None:
    strategy = DeepSpeedStrategy(DeepSpeedConfig(stage=stage), start_method="spawn")
    outcomes = []
    for devices, chosen in ((2, strategy), (1, "single_device")):
        torch.manual_seed(3)
        module = Regression()
        callbacks = [Inside()] if devices == 2 else []
        trainer = quiet(strategy=chosen, devices=devices, max_steps=STEPS, callbacks=callbacks)
        trainer.fit(module, loader(BATCH // devices), loader(BATCH // devices))
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        outcomes.append((state_of(module), metrics, trainer.global_step))
    (state, metrics, steps), (expected, expected_metrics, _) = outcomes
    caller = {"pid": os.getpid(), "state": state, "metrics": metrics, "steps": steps}
    leave("caller", 0, {**caller, "expected": expected, "expected_metrics": expected_metrics})


if __name__ == "__main__":
    main(int(sys.argv[1]))
