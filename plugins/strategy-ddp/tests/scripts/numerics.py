"""Train every problem below, one after the other, in so many processes, and leave what each rank arrived at.

python numerics.py DEVICES
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from problems import Normalized, Problem, Regression, data, leave, state_of
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from torchrelay import LightningModule
from torchrelay.callbacks import Callback


class Tied(Regression):
    """The output layer is the input layer, transposed."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.embed = nn.Linear(8, 4)
        self.out = nn.Linear(4, 8, bias=False)
        self.back = nn.Linear(8, 4)
        self.back.weight = self.embed.weight
        self.out.weight = nn.Parameter(torch.randn(8, 4) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.back(self.out(torch.tanh(self.embed(x)))) + super().forward(x)


class Frozen(Regression):
    """The first layer is not trained."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.first.requires_grad_(False)


class Sometimes(Regression):
    """One layer takes part in every third step alone, the same on every rank."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.extra = nn.Linear(8, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self(batch[0])
        if batch_idx % 3 == 0:
            out = out + self.extra(batch[0])
        return mse_loss(out, batch[1])


class Branches(Regression):
    """Samples of even and of odd index have a layer each, so that each of two ranks uses one of them."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.branches = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, index = batch
        total = torch.zeros((), dtype=x.dtype)
        for parity, branch in enumerate(self.branches):
            chosen = index % 2 == parity
            if chosen.any():
                error = self(x[chosen]) + branch(x[chosen]) - y[chosen]
                total = total + error.square().sum()
        return total / y.numel()


class Skipping(Regression):
    """Leaves out every third update."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        if batch_idx % 3 == 2:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


class Scheduled(Regression):
    """A learning rate that falls with the steps, and a step that returns a dict."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "extra": batch[0].sum()}

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TwoPlayers(Regression):
    """Two optimizers in the module's own hands; the second steps in every other batch, on a loss of its own."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        x, y, _ = batch
        first.zero_grad()
        self.manual_backward(mse_loss(self(x), y))
        first.step()
        if batch_idx % 2:
            second.zero_grad()
            self.manual_backward(mse_loss(self(x), -y))
            second.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.first.parameters(), lr=0.05),
            torch.optim.AdamW(self.second.parameters(), lr=0.01),
        ]


class Accumulated(Regression):
    """Sums the gradients of two batches by itself before each step."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(mse_loss(self(batch[0]), batch[1]) / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class Watch(Callback):
    """Notes how the model is wrapped, and after each update whether all ranks have the same weights."""

    def __init__(self) -> None:
        self.agreed: list[bool] = []
        self.bucket_view: bool | None = None
        self.static_graph: bool | None = None

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        collectives = trainer.strategy.collectives
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        gathered = collectives.all_gather(weights)
        self.agreed.append(all(torch.equal(row, gathered[0]) for row in gathered))
        model = trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            self.bucket_view = model.gradient_as_bucket_view
            self.static_graph = model.static_graph


def clipped(value: float, algorithm: str) -> dict[str, Any]:
    return {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}


SGD, ADAMW = partial(Regression, "sgd"), partial(Regression, "adamw")
THREE = {"accumulate_grad_batches": 3}  # 7 batches an epoch: the last window of each is a short one

EQUAL: dict[str, Problem] = {
    "sgd": Problem(SGD),
    "adamw": Problem(ADAMW),
    "sgd, accumulated": Problem(SGD, trainer=THREE),
    "adamw, accumulated": Problem(ADAMW, trainer=THREE),
    "sgd, clipped by norm": Problem(SGD, trainer=clipped(0.1, "norm")),
    "sgd, clipped by value": Problem(SGD, trainer=clipped(0.005, "value")),
    "adamw, accumulated, clipped by norm": Problem(
        ADAMW, trainer={**THREE, **clipped(0.1, "norm")}
    ),
    "adamw, accumulated, clipped by value": Problem(
        ADAMW, trainer={**THREE, **clipped(0.005, "value")}
    ),
    "uneven last batch": Problem(ADAMW, partial(data, 52)),
    "tied weights": Problem(Tied),
    "frozen layer": Problem(Frozen),
    "sometimes unused": Problem(Sometimes, options={"find_unused_parameters": True}),
    "unused on one rank": Problem(Branches, options={"find_unused_parameters": True}),
    "updates left out": Problem(Skipping),
    "scheduled": Problem(Scheduled),
    "two optimizers by hand": Problem(TwoPlayers),
    "accumulated by hand": Problem(Accumulated),
    "static graph": Problem(ADAMW, options={"static_graph": True}),
    "static graph, accumulated": Problem(ADAMW, trainer=THREE, options={"static_graph": True}),
    "no bucket view": Problem(ADAMW, trainer=THREE, options={"gradient_as_bucket_view": False}),
    "backend and buckets named": Problem(
        SGD, options={"process_group_backend": "gloo", "bucket_cap_mb": 1}
    ),
}
"""Problems at which two processes arrive where one does, to 1e-12."""

PRECISIONS = ("32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")

CLOSE: dict[str, Problem] = {
    **{precision: Problem(SGD, precision=precision) for precision in PRECISIONS},
    "16-mixed, accumulated, clipped": Problem(
        ADAMW, precision="16-mixed", trainer={**THREE, **clipped(0.1, "norm")}
    ),
    "16-mixed by hand": Problem(TwoPlayers, precision="16-mixed"),
    "compressed": Problem(SGD, precision="32-true", options={"ddp_comm_hook": fp16_compress_hook}),
}
"""Problems at which they arrive nearby."""


def post_local_sgd() -> Problem:
    """Gradients stay local from the 5th step on, and every 4th the weights are averaged."""
    state = PostLocalSGDState(
        process_group=None,
        subgroup=None,
        start_localSGD_iter=5,
        post_local_gradient_allreduce=False,
    )
    options = {
        "ddp_comm_state": state,
        "ddp_comm_hook": post_localSGD_hook,
        "model_averaging_period": 4,
    }
    return Problem(SGD, options=options)


def train(problem: Problem, devices: int) -> tuple[int, dict[str, Any], LightningModule]:
    """A problem's outcome on this rank."""
    watch = Watch()
    trainer, module = problem.fit(devices, callbacks=watch)
    scaler = getattr(trainer.strategy.precision_plugin, "scaler", None)
    outcome = {
        "state": state_of(module),
        "steps": trainer.global_step,
        "scale": scaler.state_dict() if scaler is not None else None,
        **vars(watch),
    }
    return trainer.global_rank, outcome, module


def main(devices: int) -> None:
    outcomes: dict[str, Any] = {}
    problems = {**EQUAL, **CLOSE}
    # An odd number of samples: the first comes again, so that both ranks have as many.
    problems["padded"] = Problem(ADAMW, partial(data, 53, repeat_first=1 if devices == 1 else 0))
    if devices > 1:
        problems["post-local SGD"] = post_local_sgd()
        problems["compressed and wrapped"] = Problem(
            SGD,
            precision="32-true",
            options={"ddp_comm_hook": fp16_compress_hook, "ddp_comm_wrapper": lambda hook: hook},
        )
    for name, problem in problems.items():
        rank, outcomes[name], _ = train(problem, devices)
    if devices > 1:
        rank, outcomes["batch norm"], module = train(Problem(Normalized), devices)
        outcomes["batch norm"]["seen"] = module.seen
    leave(f"numerics-{devices}", rank, outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]))
