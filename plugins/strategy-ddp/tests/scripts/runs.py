"""Train the same problem once for each argument, which holds arguments of the Trainer as JSON.

python runs.py '{"strategy": "ddp", "devices": 2}' ...

With `"sync_batchnorm": true` the model has a batch norm.

Leaves, for each run, what this rank arrived at, or the line in which the run was refused.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from problems import BATCH, STEPS, Normalized, Regression, data, leave, quiet, state_of
from torch.utils.data import DataLoader

from torchrelay.errors import UserError


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """What this rank arrived at."""
    torch.manual_seed(3)
    module = Normalized() if "sync_batchnorm" in arguments else Regression("adamw")
    try:
        trainer = quiet(**{"max_steps": STEPS, "precision": "64-true", **arguments})
    except UserError as error:
        return {"refused": str(error), "connected": torch.distributed.is_initialized()}
    loader = DataLoader(data(), batch_size=BATCH // trainer.world_size)
    trainer.fit(module, loader)
    environment = trainer.strategy.cluster_environment
    return {
        "state": state_of(module),
        "world": trainer.world_size,
        "rank": trainer.global_rank,
        "local_rank": trainer.local_rank,
        "node": trainer.strategy.node_rank,
        "environment": environment.name,
        "address": environment.main_address,
        "port": environment.main_port,
        "launches": trainer.strategy.launcher is not None,
        "strategy": type(trainer.strategy).__name__,
        "accelerator": trainer.strategy.accelerator.name,
        "backend": getattr(trainer.strategy.collectives, "backend", None),
        "norms": [
            type(m).__name__
            for m in trainer.strategy.module.modules()
            if hasattr(m, "running_mean")
        ],
    }


if __name__ == "__main__":
    outcomes = [run(json.loads(argument)) for argument in sys.argv[1:]]
    leave("runs", int(os.environ.get("SEAT", outcomes[-1].get("rank", 0))), outcomes)
