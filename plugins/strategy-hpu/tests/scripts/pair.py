"""Two processes on HPUs: what each arrives at, says and finds, left for the test to read.

HPU_PAIR_ACCELERATOR=hpu runs them on the device; they are simulated otherwise.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.testing.models import samples
from torchrelay.testing.numerics_problems import Final, Normalized, Trained
from torchrelay_hpu import HPUParallelStrategy

QUIET = {
    "max_epochs": 2,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
TOTAL = 56
ACCELERATOR = os.environ.get("HPU_PAIR_ACCELERATOR", "hpu_sim")
SIMULATED = ACCELERATOR == "hpu_sim"


class Talking(Trained):
    """Notes what collectives give, and what HCCL itself refuses."""

    def on_train_start(self) -> None:
        strategy = self.trainer.strategy
        talk, device, rank = strategy.collectives, strategy.root_device, strategy.global_rank
        mine = torch.tensor([1.5, -2.0], device=device) * (rank + 1)
        whole = torch.tensor([2**40 + 1, -3], device=device) + rank
        self.notes["talk"] = {
            "mean": talk.reduce(mine).cpu(),
            "max": talk.reduce(mine, "max").cpu(),
            "integers": talk.reduce(whole, "sum").cpu(),
            "smallest": talk.reduce(whole, "min").cpu(),
            "product": talk.reduce(mine, "product").cpu(),
            "decided": (talk.all(rank == 0), talk.any(rank == 0)),
            "object": talk.broadcast({"rank": rank, "tensor": mine.cpu()}, 1),
        }
        if SIMULATED:  # what HCCL itself does then is not published
            self.notes["refused"] = [_refused(*case) for case in _cases(device)]
        self.notes["environment"] = {
            name: os.environ.get(name)
            for name in (
                "HLS_MODULE_ID",
                "ID",
                "RANK",
                "LOCAL_RANK",
                "WORLD_SIZE",
                "HCCL_DISTRIBUTED_BACKEND",
            )
        }


def _cases(device: torch.device) -> list[Any]:
    one = torch.ones(2, device=device)
    return [
        (one.clone(), dist.ReduceOp.AVG),
        (one.clone(), dist.ReduceOp.PRODUCT),
        (one.long(), dist.ReduceOp.SUM),
        (one.int(), dist.ReduceOp.SUM),
        (one.cpu(), dist.ReduceOp.SUM),
    ]


def _refused(tensor: torch.Tensor, operation: Any) -> str:
    try:
        dist.all_reduce(tensor, operation)
    except RuntimeError as error:
        return str(error)
    return ""


def optimizers() -> dict[str, Any]:
    return {
        "momentum": partial(SGD, lr=0.05, momentum=0.9),
        "adamw": partial(AdamW, lr=0.02, weight_decay=0.1),
    }


def train(place: dict[str, Any], module: Any, batch: int, **options: Any) -> dict[str, Any]:
    final = Final()
    made = Trainer(**{**QUIET, **options}, **place, callbacks=[final])
    made.fit(module, DataLoader(samples(TOTAL), batch), DataLoader(samples(TOTAL), batch))
    return {name: value.cpu() for name, value in final.state.items()}


CPU = {"accelerator": "cpu", "devices": 1, "strategy": "single_device"}


def followed() -> AbstractContextManager[None]:
    """Let torch's compiler follow the device's tensors, which it does by itself on a device."""
    if not SIMULATED:
        return nullcontext()
    from habana_frameworks.torch.hpu.device import traced

    return traced()


def main() -> None:
    before = dict(os.environ)
    names = ("HLS_MODULE_ID", "ID", "RANK", "WORLD_SIZE", "HCCL_DISTRIBUTED_BACKEND")
    mine = {"accelerator": ACCELERATOR, "devices": 2}
    found: dict[str, Any] = {}
    for name, optimizer in optimizers().items():
        found[name] = train({**mine, "strategy": "hpu_parallel"}, Trained(optimizer), 4)
        found[f"{name}, windows"] = train(
            {**mine, "strategy": "ddp"},
            Trained(optimizer),
            4,
            accumulate_grad_batches=3,
            gradient_clip_val=0.1,
        )
    module = Talking(optimizers()["adamw"])
    fused = HPUParallelStrategy(fused_adamw=True, fused_clip_norm=True)
    found["fused"] = train({**mine, "strategy": fused}, module, 4)
    if os.environ["PT_HPU_LAZY_MODE"] == "0":
        compiling = HPUParallelStrategy(compile=True)
        with followed():
            place = {**mine, "strategy": compiling}
            found["compiled"] = train(place, Trained(optimizers()["adamw"]), 4)
    normalized = Normalized()
    found["normalized"] = train({**mine, "strategy": "hpu_parallel"}, normalized, 4)
    rank = fused.global_rank
    left = {name for name in names if os.environ.get(name) != before.get(name)}
    notes = {
        **module.notes,
        "statistics": {n: v.cpu() for n, v in normalized.notes["statistics"].items()},
    }
    torch.save(
        {"states": found, "notes": notes, "left": sorted(left)},
        Path(os.environ["OUT"]) / f"pair-{rank}.pt",
    )


if __name__ == "__main__":
    main()
