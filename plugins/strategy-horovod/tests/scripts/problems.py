"""Small models and data for the programs beside this module."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

warnings.simplefilter("error")  # in every process, however it was started

import torch  # noqa: E402 - what importing it warns of counts too
from torch import nn  # noqa: E402
from torch.nn.functional import mse_loss  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from torchrelay import LightningModule, Trainer  # noqa: E402

OUT = Path(os.environ["OUT"])
BATCH = 8
STEPS = 14

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "momentum": lambda parameters: torch.optim.SGD(
        parameters, lr=0.05, momentum=0.9, weight_decay=0.01
    ),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "lbfgs": torch.optim.LBFGS,
}


def data(samples: int = 56) -> TensorDataset:
    """Samples of 8 numbers with 4 targets and an index."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 8, generator=generator)
    y = torch.randn(samples, 4, generator=generator)
    return TensorDataset(x, y, torch.arange(samples))


class Regression(LightningModule):
    """Two linear layers.

    Args:
        optimizer: one of `OPTIMIZERS`.
    """

    def __init__(self, optimizer: str = "momentum") -> None:
        super().__init__()
        self.kind = optimizer
        self.facts: dict[str, Any] = {}
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", mse_loss(self(batch[0]), batch[1]).float(), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[2], self(batch[0]).float()

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.kind](self.parameters())


class Frozen(Regression):
    """The first layer is not trained, though the optimizer has it.

    Args:
        turns: batches of each epoch in which it begins to be trained, or ceases to be.
    """

    def __init__(self, optimizer: str = "momentum", turns: Sequence[int] = ()) -> None:
        super().__init__(optimizer)
        self.turns = turns
        self.first.requires_grad_(False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.turns:
            self.first.requires_grad_(not self.first.weight.requires_grad)


class Growing(Regression):
    """The optimizer is given another layer in the middle."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.added = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.added(x)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.first.parameters(), *self.second.parameters()], lr=0.01)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3 and self.current_epoch == 0:
            optimizer = self.trainer.optimizers[0]
            optimizer.add_param_group({"params": list(self.added.parameters()), "lr": 0.02})


class Unused(Regression):
    """A layer takes part in every third step alone, or never.

    Args:
        every: number of steps between two in which it does; 0 for never.
        optimizer: one of `OPTIMIZERS`.
    """

    def __init__(self, every: int = 3, optimizer: str = "momentum") -> None:
        super().__init__(optimizer)
        self.every = every
        self.extra = nn.Linear(8, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self(batch[0])
        if self.every and batch_idx % self.every == 0:
            out = out + self.extra(batch[0])
        return mse_loss(out, batch[1])


class OneSided(Regression):
    """A layer sees the samples of even index alone, which are all on one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(8, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, index = batch
        out, even = self(x), index % 2 == 0
        if bool(even.any()):
            out = out + self.extra(x) * even.unsqueeze(1)
        return mse_loss(out, y)


class Normalized(Regression):
    """Batch norm, whose statistics are each rank's own; a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x)))) * self.shift


class Embedded(Regression):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__("sgd")
        self.table = nn.Embedding(56, 4, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return mse_loss(self(batch[0]) + self.table(batch[2]), batch[1])


class Scheduled(Regression):
    """A learning rate that falls with the steps, by a scheduler of two."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        rates = self.facts.setdefault("rates", [])
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        parts = [
            torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
            torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        ]
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [3])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Grouped(Regression):
    """Biases decay otherwise than weights, and learn faster."""

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p for p in self.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in self.parameters() if p.dim() < 2], "lr": 0.02},
        ]
        return OPTIMIZERS[self.kind](groups)


class Picky(torch.optim.SGD):
    """An optimizer whose constructor takes what is in no group, that runs its closure, and counts its updates."""

    def __init__(self, parameters: Any, speed: float, *, facts: dict[str, Any]) -> None:
        super().__init__(parameters, lr=speed)
        self.facts = facts

    def step(self, closure: Any = None) -> Any:
        self.facts["updates"] = self.facts.get("updates", 0) + 1
        return super().step(closure)


class OwnOptimizer(Regression):
    """Has an optimizer of its own making, with a hook."""

    def configure_optimizers(self) -> Any:
        optimizer = Picky(self.parameters(), 0.05, facts=self.facts)
        optimizer.register_step_pre_hook(self.count)
        return optimizer

    def count(self, *_: Any) -> None:
        self.facts["hooks"] = self.facts.get("hooks", 0) + 1


class OwnStep(Regression):
    """Makes updates itself: warms up, leaves out every third, and clears gradients of another."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + self.trainer.global_step)
        if batch_idx % 3 == 2:
            optimizer_closure()
        elif batch_idx % 3 == 1:
            optimizer_closure()
            self.zero_grad()
            optimizer.step()
        else:
            optimizer.step(closure=optimizer_closure)


class Carrying(Regression):
    """Never clears gradients, so that each update has those of all before."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.facts["kept"] = self.facts.get("kept", 0) + 1


class NoLoss(Regression):
    """Has no loss for one batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 2 else super().training_step(batch, batch_idx)


class Watching(Regression):
    """Looks at the gradients after backward and before the update, and changes them in between."""

    def on_after_backward(self) -> None:
        self.note("after")
        self.first.weight.grad = self.first.weight.grad * 0.5
        self.second.weight.grad.mul_(2)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.note("before")

    def note(self, when: str) -> None:
        seen = self.facts.setdefault(when, [])
        seen.append([p.grad.detach().clone() for p in self.parameters()])


class Reentrant(Regression):
    """Uses a layer twice under checkpoints that run a backward pass of their own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.utils.checkpoint import checkpoint

        x = x.clone().requires_grad_()
        for _ in range(2):
            x = checkpoint(self.square, x, use_reentrant=True)
        return super().forward(x)

    def square(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.first(x)[:, :8]


def clear(module: nn.Module, optimizer: torch.optim.Optimizer, how: str) -> None:
    """Clear gradients as users do."""
    if how == "module":
        module.zero_grad()
    elif how == "parameters":
        for parameter in module.parameters():
            parameter.grad = None
    else:
        optimizer.zero_grad(set_to_none=how != "zeros")


class Clearing(Regression):
    """Clears gradients in hooks, also between backward and the update, in one of the ways that there are.

    Args:
        how: "module", "optimizer", "parameters" or "zeros".
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def on_after_backward(self) -> None:
        if self.trainer.global_step == 4:
            clear(self, self.trainer.optimizers[0], self.how)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        clear(self, self.trainer.optimizers[0], self.how)


class ByHand(Regression):
    """Two optimizers in the module's own hands: several backward passes, clipping, schedules, toggling.

    Args:
        how: a way to clear gradients.
        toggles: whether the parameters of the other optimizer are left alone meanwhile.
    """

    automatic_optimization = False

    def __init__(self, how: str = "own", toggles: bool = True) -> None:
        super().__init__()
        self.how, self.toggles = how, toggles

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, schedule in zip(self.optimizers(), self.lr_schedulers(), strict=True):
            if self.toggles:
                self.toggle_optimizer(optimizer)
            if self.how == "own":
                optimizer.zero_grad()
            else:
                clear(self, optimizer.optimizer, self.how)
            middle = len(batch[0]) // 2
            for half in (slice(None, middle), slice(middle, None)):
                self.manual_backward(mse_loss(self(batch[0][half]), batch[1][half]) / 2)
            self.clip_gradients(optimizer, gradient_clip_val=0.1)
            optimizer.step()
            schedule.step()
            if self.toggles:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        made = [
            torch.optim.Adam(self.first.parameters(), lr=0.02),
            torch.optim.SGD(self.second.parameters(), lr=0.1, momentum=0.9),
        ]
        return made, [torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for each in made]


class Overflowing(Regression):
    """Gradients overflow on one rank in one batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.global_rank == 1 and batch_idx == 2:
            loss = loss * float("inf")
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        scales = self.facts.setdefault("scales", [])
        scales.append(self.trainer.strategy.precision_plugin.state_dict()["scale"])


def loader(batch: int) -> DataLoader[Any]:
    """The data in its order."""
    return DataLoader(data(), batch_size=batch)


def quiet(**arguments: Any) -> Trainer:
    """A Trainer on the CPU that neither shows progress nor, unless told so, keeps checkpoints."""
    defaults = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "logger": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(OUT),
    }
    return Trainer(**{**defaults, **arguments})


def strategy_of(asked: Any) -> Any:
    """An alias as it is; Horovod's strategy where its options are given."""
    if isinstance(asked, str):
        return asked
    from torchrelay_horovod import HorovodStrategy

    return HorovodStrategy(**asked)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def leave(name: str, rank: int, result: Any) -> None:
    """Leave a rank's result for the test to read."""
    torch.save(result, OUT / f"{name}-{rank}.pt")
