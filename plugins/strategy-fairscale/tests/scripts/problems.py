"""Small models and data for the programs beside this module."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib import import_module
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
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "adagrad": lambda parameters: torch.optim.Adagrad(
        parameters, lr=0.05, initial_accumulator_value=0.1
    ),
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

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__()
        self.kind = optimizer
        self.facts: dict[str, Any] = {}
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", mse_loss(self(batch[0]), batch[1]).float(), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", mse_loss(self(batch[0]), batch[1]).float(), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[2], self(batch[0]).float()

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.kind](p for p in self.parameters() if p.requires_grad)


class Tied(Regression):
    """A layer whose weight is another's too."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)
        self.embed = nn.Linear(8, 4)
        self.out = nn.Linear(4, 8, bias=False)
        self.back = nn.Linear(8, 4)
        self.back.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.back(self.out(torch.tanh(self.embed(x)))) + super().forward(x)


class Frozen(Regression):
    """The first layer is not trained, though the optimizer has it.

    Args:
        until: batch in which it is unfrozen all the same.
    """

    def __init__(self, optimizer: str = "adamw", until: int | None = None) -> None:
        super().__init__(optimizer)
        self.until = until
        self.first.requires_grad_(False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.until:
            self.first.requires_grad_(True)

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.kind](self.parameters())


class Unused(Regression):
    """A layer takes part in every third step alone, or never.

    Args:
        every: number of steps between two in which it does; 0 for never.
        zero: whether it otherwise has gradients of zero rather than none.
        optimizer: one of `OPTIMIZERS`.
    """

    def __init__(self, every: int = 3, zero: bool = False, optimizer: str = "sgd") -> None:
        super().__init__(optimizer)
        self.every, self.zero = every, zero
        self.extra = nn.Linear(8, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self(batch[0])
        takes_part = bool(self.every) and batch_idx % self.every == 0
        if takes_part or self.zero:
            out = out + self.extra(batch[0]) * takes_part
        return mse_loss(out, batch[1])


class Normalized(Regression):
    """Batch norm, whose statistics are each rank's own; a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x)))) * self.shift


class Scheduled(Regression):
    """A learning rate that falls with the steps or the epochs."""

    def __init__(self, interval: str = "step") -> None:
        super().__init__()
        self.interval = interval

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        rates = self.facts.setdefault("rates", [])
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
                torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
            ],
            [3],
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.interval},
        }


class Grouped(Regression):
    """Biases decay otherwise than weights."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p for p in self.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in self.parameters() if p.dim() < 2], "lr": 0.02},
        ]
        return OPTIMIZERS[self.kind](groups)


class ByLayer(Regression):
    """Each layer has a learning rate of its own."""

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.second.parameters(), "lr": 0.02},
            {"params": self.first.parameters()},
        ]
        return OPTIMIZERS["adamw"](groups)


class Some(Regression):
    """The optimizer does not have the second layer's bias."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.first.parameters(), self.second.weight], lr=0.05)


class Reading(Regression):
    """Notes how much of the weights there is, wherever a hook may look."""

    def note(self, where: str) -> None:
        sizes = {
            n: sum(p.numel() for p in (layer.weight, layer.bias))
            for n, layer in self.named_children()
        }
        self.facts.setdefault(where, []).append(sizes)

    def on_train_start(self) -> None:
        self.note("start")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.note("batch")

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.note("validation")

    def on_train_end(self) -> None:
        self.trainer.strategy.model_state()
        self.note("end")


class HooksCounted(Regression):
    """Counts how often FairScale's hook on gradients runs in each step."""

    def on_train_start(self) -> None:
        self.ran = 0
        self.kind = import_module("fairscale.nn.data_parallel").FullyShardedDataParallel
        self.usual = usual = self.kind._post_backward_hook

        def counted(unit: Any, *arguments: Any) -> Any:
            self.ran += 1
            return usual(unit, *arguments)

        self.kind._post_backward_hook = counted

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.facts.setdefault("ran", []).append(self.ran)
        self.ran = 0

    def on_train_end(self) -> None:
        self.kind._post_backward_hook = self.usual
        del self.kind, self.usual


class Elsewhere(Regression):
    """The optimizer has a parameter that the module does not."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.parameters(), nn.Parameter(torch.ones(3))], lr=0.05)


class Picky(torch.optim.SGD):
    """An optimizer whose constructor takes what is in no group, and that counts its updates."""

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
    """Makes updates itself, warming up."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + self.trainer.global_step)
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
    """Looks at the gradients of each update."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        seen = self.facts.setdefault("gradients", [])
        seen.append([p.grad.detach().clone() for p in self.parameters()])


class Clearing(Regression):
    """Clears gradients in hooks, in one of the ways that there are.

    Args:
        how: "module", "optimizer", "parameters" or "zeros".
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        clear(self, self.trainer.optimizers[0], self.how)


def clear(module: nn.Module, optimizer: torch.optim.Optimizer, how: str) -> None:
    """Clear gradients as users do."""
    if how == "module":
        module.zero_grad()
    elif how == "parameters":
        for parameter in module.parameters():
            parameter.grad = None
    else:
        optimizer.zero_grad(set_to_none=how != "zeros")


class ByHand(Regression):
    """Two optimizers in the module's own hands: several backward passes, clipping, schedules, toggling.

    Args:
        how: a way to clear gradients.
    """

    automatic_optimization = False

    def __init__(self, how: str = "own") -> None:
        super().__init__()
        self.how = how

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, schedule in zip(self.optimizers(), self.lr_schedulers(), strict=True):
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
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        made = [
            torch.optim.Adam(self.first.parameters(), lr=0.02),
            torch.optim.SGD(self.second.parameters(), lr=0.1, momentum=0.9),
        ]
        return made, [torch.optim.lr_scheduler.ExponentialLR(each, 0.9) for each in made]


class Pair(Regression):
    """Two optimizers, and none who would drive them."""

    configure_optimizers = ByHand.configure_optimizers


class Mixed(Regression):
    """Parameters of two formats."""

    def __init__(self) -> None:
        super().__init__()
        self.second.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)).double()).float()


class Overflowing(Regression):
    """Gradients overflow on one rank in one batch, in the part that another rank updates."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.global_rank == 1 and batch_idx == 2:
            loss = loss * float("inf")
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        scales = self.facts.setdefault("scales", [])
        scales.append(self.trainer.strategy.precision_plugin.state_dict()["scale"])


class MadeLate(Regression):
    """Makes its layers when the processes are connected, and shards one of them at once.

    Args:
        inner: what goes around the last layers: "wrap", "checkpoint", both, or nothing.
    """

    def __init__(self, optimizer: str = "adamw", inner: str = "") -> None:
        super().__init__(optimizer)
        del self.first, self.second
        self.first = self.second = None
        self.inner = inner

    def configure_model(self) -> None:
        if self.first is not None:
            return
        torch.manual_seed(5)
        from torchrelay_fairscale import checkpoint_wrapper, wrap

        self.first = nn.Linear(8, 16)
        layer: Any = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
        layer[0].register_forward_pre_hook(self.count)
        if "checkpoint" in self.inner:
            layer = checkpoint_wrapper(layer)
        self.second = wrap(layer) if "wrap" in self.inner else layer
        self.facts["sizes"] = [p.numel() for p in self.parameters()]

    def count(self, *_: Any) -> None:
        self.facts["computed"] = self.facts.get("computed", 0) + 1


class Sized(Regression):
    """Says how much of it this rank has."""

    def on_train_end(self) -> None:
        optimizer = self.trainer.optimizers[0]
        inner = getattr(optimizer, "optim", optimizer)
        states = [v for entry in inner.state.values() for v in entry.values() if v.dim()]
        model = self.trainer.strategy.model
        self.facts["state"] = sum(value.numel() for value in states)
        self.facts["parameters"] = sum(p.numel() for p in model.parameters())
        self.facts["units"] = [
            path
            for path, each in model.named_modules()
            if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(each).__mro__)
        ]


def large_first(
    module: nn.Module, recurse: bool, unwrapped_params: int, module_is_root: bool
) -> bool:
    """A policy: the wide layers are units."""
    return recurse or getattr(module, "out_features", 0) == 16


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
    """An alias as it is; fully sharded where it was given as its options, on the CPU by test equipment."""
    if isinstance(asked, str):
        return asked
    options = dict(asked)
    if "sharded" in options:
        from torchrelay_fairscale import DDPShardedStrategy

        return DDPShardedStrategy(**options["sharded"])
    from torchrelay_fairscale import DDPFullyShardedStrategy, FullyShardedConfig

    on_gpu = options.pop("on_gpu", False)
    start = {"start_method": options.pop("start_method", "script")}
    if options.get("policy"):
        options["policy"] = globals()[options["policy"]]
    kind = DDPFullyShardedStrategy
    if not on_gpu:
        from streamless import StreamlessStrategy

        kind = StreamlessStrategy
    return kind(FullyShardedConfig(**options), **start)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def leave(name: str, rank: int, result: Any) -> None:
    """Leave a rank's result for the test to read."""
    torch.save(result, OUT / f"{name}-{rank}.pt")
