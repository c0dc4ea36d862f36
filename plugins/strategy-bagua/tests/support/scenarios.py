"""What two processes on the simulated GPUs do, and leave to be judged; `scripts/ranks.py` runs them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bagua.torch_api.algorithms.q_adam import QAdamOptimizer
from bagua_simulated.machine import machine
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningModule, Trainer
from torchrelay.testing.models import samples
from torchrelay.testing.numerics_problems import Final, Normalized, Trained
from torchrelay_bagua import (
    AsyncAverage,
    BaguaStrategy,
    Bytegrad,
    Decentralized,
    GradientAllreduce,
    LowPrecisionDecentralized,
    QAdam,
)

TOTAL, BATCH = 56, 4
QUIET = {
    "max_epochs": 2,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
CPU = {"accelerator": "cpu", "devices": 1, "strategy": "single_device"}
OPTIMIZERS: Mapping[str, Any] = {
    "momentum": partial(SGD, lr=0.05, momentum=0.9),
    "adamw": partial(AdamW, lr=0.02, weight_decay=0.1),
}


def pair(algorithm: Any = "gradient_allreduce", **options: Any) -> dict[str, Any]:
    return {
        "accelerator": "bagua_sim",
        "devices": 2,
        "strategy": BaguaStrategy(algorithm, **options),
    }


def train(
    place: dict[str, Any], module: Any, batch: int = BATCH, **options: Any
) -> dict[str, torch.Tensor]:
    """The state that training ends with, as a checkpoint has it."""
    final = Final()
    made = Trainer(**{**QUIET, **place, **options, "callbacks": [final]})
    made.fit(module, DataLoader(samples(TOTAL), batch), DataLoader(samples(TOTAL), batch))
    return {name: value.cpu() for name, value in final.state.items()}


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in module.named_parameters()}


# --- gradients, exactly ---------------------------------------------------------------------------------

WINDOWS = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}


def exact() -> dict[str, Any]:
    found = {}
    for name, optimizer in OPTIMIZERS.items():
        found[name] = train(pair(), Trained(optimizer))
        found[f"{name}, windows"] = train(pair(), Trained(optimizer), **WINDOWS)
    return found


class ByHand(Trained):
    """Makes its updates itself."""

    def __init__(self, optimizer: Any = OPTIMIZERS["momentum"]) -> None:
        super().__init__(optimizer)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for part in (0.25, 0.75):
            self.manual_backward(self.loss(batch) * part)
        optimizer.step()


def by_hand() -> dict[str, Any]:
    return {"state": train(pair(), ByHand())}


class Apart(Normalized):
    """Ranks begin with weights, frozen weights and buffers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def differ(self, rank: int) -> None:
        with torch.no_grad():
            for each in (*self.parameters(), *self.buffers()):
                each.add_(rank)

    def on_train_start(self) -> None:
        self.notes["state"] = {n: v.clone() for n, v in self.state_dict().items()}


def sharing() -> dict[str, Any]:
    module = Apart()
    module.differ(int(os.environ.get("RANK", "0")))
    train(pair(), module, max_epochs=1, limit_train_batches=1)
    return module.notes["state"], module.notes["statistics"]


# --- gradients in 8 bits --------------------------------------------------------------------------------


class Measured(Trained):
    """Notes the gradients of each update, and what each rank alone would have had."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if "own" not in self.notes:
            own = torch.autograd.grad(self.loss(batch), list(self.parameters()))
            self.notes["own"] = torch.cat([each.reshape(-1) for each in own])
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        found = torch.cat([each.grad.reshape(-1) for each in self.parameters()])
        self.notes.setdefault("gradients", []).append(found.clone())


def bytegrad() -> dict[str, Any]:
    module = Measured()
    state = train(pair(Bytegrad(hierarchical=False)), module)
    return {
        "state": state,
        "gradients": module.notes["gradients"],
        "own": module.notes["own"],
        "hierarchical": train(pair("bytegrad"), Trained()),
    }


def options() -> dict[str, Any]:
    """The first gradients as sums and as averages, and weights where nothing lies side by side."""
    found: dict[str, Any] = {}
    for kind in (GradientAllreduce, Bytegrad):
        for average in (True, False):
            module = Measured()
            train(pair(kind(hierarchical=False, average=average)), module, max_steps=1)
            found[kind.name, average] = module.notes["gradients"][0]
        for flatten in (True, False):
            place = pair(kind(), flatten=flatten)
            found[kind.name, "flatten", flatten] = train(place, Trained(OPTIMIZERS["momentum"]))
    return found


# --- weights --------------------------------------------------------------------------------------------


class Wandering(Trained):
    """Notes the weights before and after each update, the gradient, and what a checkpoint would have."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradients = {name: each.grad.clone() for name, each in self.named_parameters()}
        self.notes.setdefault("steps", []).append({"before": copied(self), "gradients": gradients})

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if "steps" not in self.notes:  # the first micro-batch of a window
            return
        self.notes["steps"][-1]["after"] = copied(self)
        self.notes["steps"][-1]["saved"] = self.trainer.strategy.model_state()


def _wandering(algorithm: Any, **options: Any) -> dict[str, Any]:
    module = Wandering()
    state = train(pair(algorithm), module, **options)
    return {"state": state, "steps": module.notes["steps"], "end": copied(module)}


def decentralized() -> dict[str, Any]:
    kinds = {
        "all": Decentralized(hierarchical=False),
        "shift_one": Decentralized(hierarchical=False, peer_selection_mode="shift_one"),
        "seldom": Decentralized(hierarchical=False, communication_interval=3),
        "hierarchical": Decentralized(),
    }
    found: dict[str, Any] = {name: _wandering(kind) for name, kind in kinds.items()}
    found["windows"] = _wandering(kinds["all"], accumulate_grad_batches=2)
    return found


def low_precision() -> dict[str, Any]:
    return _wandering(LowPrecisionDecentralized(hierarchical=False), max_epochs=8)


# --- in the background ----------------------------------------------------------------------------------


class Digits(LightningModule):
    """A perceptron on scikit-learn's handwritten digits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.most_apart = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def on_train_epoch_end(self) -> None:
        flat = torch.cat([each.detach().reshape(-1) for each in self.parameters()])
        both = self.trainer.strategy.all_gather(flat)
        self.most_apart = max(self.most_apart, float((both[0] - both[1]).abs().max()))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


def digits() -> list[TensorDataset]:
    """1,297 to learn from, 500 that training never sees."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).flatten(1) / 16
    everything = TensorDataset(images, torch.tensor(raw.target))
    return list(
        torch.utils.data.random_split(everything, [1297, 500], torch.Generator().manual_seed(0))
    )


def accuracy(module: Digits) -> float:
    images, labels = next(iter(DataLoader(digits()[1], 500)))
    with torch.no_grad():
        return float((module.net(images).argmax(1) == labels).float().mean())


def learned(place: dict[str, Any], batch: int = 16, epochs: int = 6) -> Digits:
    module = Digits()
    made = Trainer(**{**QUIET, **place, "max_epochs": epochs})
    made.fit(module, DataLoader(digits()[0], batch, shuffle=True))
    return module


def in_the_background() -> dict[str, Any]:
    found = {}
    for name, warmup in (("async", 0), ("warming", 20)):
        machine.events.clear()
        module = learned(pair(AsyncAverage(sync_interval_ms=2, warmup_steps=warmup)))
        found[name] = {
            "accuracy": accuracy(module),
            "end": copied(module),
            "most_apart": module.most_apart,
            "events": {each: machine.events.count(each) for each in set(machine.events)},
        }
    return found


# --- qadam ----------------------------------------------------------------------------------------------

WARMUP = 8
ADAM = partial(QAdamOptimizer, lr=0.02, warmup_steps=WARMUP)


def qadam() -> dict[str, Any]:
    place = pair(QAdam(hierarchical=False))
    return {
        "warming": train(place, Trained(ADAM), max_steps=WARMUP - 1),
        "state": train(pair(QAdam(hierarchical=False)), Trained(ADAM)),
        "hierarchical": train(pair("qadam"), Trained(ADAM)),
    }


# --- collectives ----------------------------------------------------------------------------------------


NAMES = (None, "avg", "mean", "SUM", "min", "max", "product")
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")


class Talking(Trained):
    """Notes what collectives give."""

    def on_train_start(self) -> None:
        strategy = self.trainer.strategy
        talk, rank = strategy.collectives, strategy.global_rank
        mine = torch.tensor([1.5, -2.0]) * (rank + 1)
        whole = torch.tensor([2**40 + 1, -3]) + rank
        flags = torch.tensor([True, False]) if rank else torch.tensor([True, True])
        self.notes["talk"] = {
            **{str(op): strategy.reduce(mine, reduce_op=op) for op in NAMES},
            "torch": strategy.reduce(mine, reduce_op=dist.ReduceOp.MAX),
            "torch's first": strategy.reduce(mine, reduce_op=dist.ReduceOp.SUM),
            "integers": strategy.reduce(whole, reduce_op="sum"),
            "fraction": strategy.reduce(torch.tensor([rank])),
            "smallest": talk.reduce(whole, "min"),
            "flags": talk.reduce(flags, "min"),
            "counted": talk.reduce(flags, "sum"),
            "double": talk.reduce(torch.tensor([1.0 + rank * 2**-50], dtype=torch.float64), "max"),
            "bfloat16": talk.reduce(mine.bfloat16()),
            "half": talk.reduce(mine.half()),
            "small": talk.reduce(torch.tensor([100 + rank], dtype=torch.int8), "sum"),
            "complex": talk.reduce(torch.tensor([1j * rank])),
            "bits": [
                strategy.reduce(torch.tensor([5 + rank]), reduce_op=op)
                for op in ("band", "bor", "bxor")
            ],
            "number": talk.reduce(1.0 + rank),
            "nested": talk.reduce({"a": [rank, mine]}, "sum"),
            "decided": (talk.all(rank == 0), talk.any(rank == 0)),
            "object": talk.broadcast({"rank": rank, "tensor": mine}, 1),
            "gathered": talk.all_gather(whole.to(torch.int16)),
            "objects": talk.gather_objects(f"rank {rank}"),
            "empty": talk.reduce(torch.zeros(0)),
        }
        self.notes["refused"] = [
            _refused(lambda: strategy.reduce(mine, reduce_op="band")),
            _refused(lambda: strategy.reduce(mine, reduce_op="median")),
            _refused(lambda: talk.reduce("text")),
        ]
        self.notes["environment"] = {name: os.environ.get(name) for name in RANKS}


def _refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def talking() -> dict[str, Any]:
    before = dict(os.environ)
    module = Talking()
    train(pair(), module, max_steps=1)
    return {
        **module.notes,
        "left": sorted(n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)),
    }


SCENARIOS = {
    each.__name__: each
    for each in (
        exact,
        by_hand,
        sharing,
        bytegrad,
        options,
        decentralized,
        low_precision,
        in_the_background,
        qadam,
        talking,
    )
}


def leave(name: str, rank: int) -> None:
    """Run a scenario and leave what it found."""
    found = SCENARIOS[name]()
    torch.save(found, Path(os.environ["OUT"]) / f"{name}-{rank}.pt")


def loss_of(state: Mapping[str, torch.Tensor]) -> float:
    """The loss on all samples with some weights."""
    module = Trained()
    module.load_state_dict(dict(state))
    with torch.no_grad():
        return float(module.loss(next(iter(DataLoader(samples(TOTAL), TOTAL)))))


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    if one.keys() != other.keys():
        return math.inf
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in one)
