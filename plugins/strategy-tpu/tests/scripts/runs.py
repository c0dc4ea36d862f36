"""Train every case under a strategy, but for some, one after the other, and leave what each arrived at.

python runs.py STRATEGY ACCELERATOR DEVICES [LEFT OUT]...
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from problems import Regression, data, leave, loader, quiet, state_of

THREE = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"arguments": {"optimizer": "sgd"}},
    "adamw": {},
    "accumulated, clipped": {"trainer": THREE},
    "clipped by value": {
        "trainer": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    },
    "ragged": {"number": 52},
    "bf16-mixed": {"trainer": {"precision": "bf16-mixed"}},
    "bf16-true": {"trainer": {"precision": "bf16-true"}},
}


def run(case: dict[str, Any], strategy: str, accelerator: str, devices: int) -> dict[str, Any]:
    """What a case arrived at."""
    module = Regression(**case.get("arguments", {}))
    own = dict(module.named_parameters())
    batches = loader(
        case.get("number", len(data())), 8 // (devices if strategy == "tpu_spawn" else 1)
    )
    options = {"strategy": strategy, "accelerator": accelerator, "devices": devices}
    trainer = quiet(**options, **case.get("trainer", {}))
    trainer.fit(module, batches, batches)
    found = {
        "state": state_of(module),
        "steps": trainer.global_step,
        "val_loss": float(trainer.callback_metrics["val_loss"]),
        "facts": dict(module.facts),
        "divided": module.divided,
        "own": all(p is own[name] for name, p in module.named_parameters()),
        "tied": module.again.weight is module.hidden.weight,
    }
    predicted = trainer.predict(module, batches)
    return {**found, "predicted": torch.cat([each.float().cpu() for each in predicted])}


def main(strategy: str, accelerator: str, devices: int, *left_out: str) -> None:
    found = {}
    for name in [name for name in CASES if name not in left_out]:
        found[name] = run(CASES[name], strategy, accelerator, devices)
        sys.stderr.write(f"{name}\n")
    leave(f"runs-{strategy}-{accelerator}", found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
