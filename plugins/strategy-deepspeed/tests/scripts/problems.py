"""Small models and data for the programs beside this module."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In every process, however it was started. DeepSpeed calls collectives by names that torch 2.13 is about to retire, and
# imports parts of torch that use what torch has retired.
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "`torch.distributed.", FutureWarning)
warnings.filterwarnings("ignore", "`torch.jit.", DeprecationWarning)

import torch  # noqa: E402 - what importing it warns of counts too
from torch import nn  # noqa: E402
from torch.nn.functional import mse_loss  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from torchrelay import LightningModule, Trainer  # noqa: E402

OUT = Path(os.environ["OUT"])
BATCH = 8
STEPS = 14


def cpu_adam(parameters: Any) -> torch.optim.Optimizer:
    """DeepSpeed's own, where the engine has been told of a device; torch's alone."""
    if not torch.distributed.is_initialized():
        return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    made: torch.optim.Optimizer = DeepSpeedCPUAdam(parameters, lr=0.01)
    return made


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "cpu adam": cpu_adam,
    "lbfgs": torch.optim.LBFGS,
    "none": lambda parameters: None,
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
        scale: of the loss.
    """

    def __init__(self, optimizer: str = "sgd", scale: float = 1.0) -> None:
        super().__init__()
        self.kind, self.scale = optimizer, scale
        self.facts: dict[str, Any] = {}
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.scale * mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", mse_loss(self(batch[0]), batch[1]).float(), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", mse_loss(self(batch[0]), batch[1]).float(), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[2], self(batch[0]).float()

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.kind](p for p in self.parameters() if p.requires_grad)


class Large(Regression):
    """Gradients of a norm far above 1, and a learning rate that suits them."""

    def __init__(self) -> None:
        super().__init__(scale=1000.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=5e-5)


class Tied(Regression):
    """The output layer is the input layer, transposed."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)
        self.embed = nn.Linear(8, 4)
        self.out = nn.Linear(4, 8, bias=False)
        self.back = nn.Linear(8, 4)
        self.back.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.back(self.out(torch.tanh(self.embed(x)))) + super().forward(x)


class Frozen(Regression):
    """The first layer is not trained."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__(optimizer)
        self.first.requires_grad_(False)


class Unused(Regression):
    """A layer takes no part."""

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__(optimizer)
        self.extra = nn.Linear(8, 4)


class Sometimes(Unused):
    """A layer takes part in every third step alone, the same on every rank.

    Args:
        zero: whether it otherwise has gradients of zero rather than none.
    """

    def __init__(self, zero: bool = False) -> None:
        super().__init__()
        self.zero = zero

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out = self(batch[0])
        if batch_idx % 3 == 0 or self.zero:
            out = out + self.extra(batch[0]) * (batch_idx % 3 == 0)
        return mse_loss(out, batch[1])


class Differing(Unused):
    """A layer takes part for every second sample alone, which two ranks that read in turn use and do not use."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out, mine = self(batch[0]), batch[2] % 2 == 0
        if mine.any():
            out = out + self.extra(batch[0]) * mine[:, None]
        return mse_loss(out, batch[1])


class Apart(Regression):
    """A parameter takes part for every second sample alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out, mine = self(batch[0]), batch[2] % 2 == 0
        return mse_loss(out * self.gain if mine.any() else out, batch[1])


class Averaged(Regression):
    """Ends with other weights than those that it has trained."""

    def on_train_end(self) -> None:
        with torch.no_grad():
            self.second.weight.mul_(0.5)


class Normalized(Regression):
    """Batch norm, whose statistics are each rank's own."""

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__(optimizer)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))


class OwnBackward(Regression):
    """Computes gradients itself."""

    def backward(self, loss: torch.Tensor) -> None:
        self.facts["backwards"] = self.facts.get("backwards", 0) + 1
        loss.backward()


class OwnStep(Regression):
    """Makes updates itself, warming up."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + self.trainer.global_step)
        optimizer.step(closure=optimizer_closure)


class Skipping(Regression):
    """Leaves out every third update."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        if batch_idx % 3 == 2:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


class NoLoss(Regression):
    """Has no loss for one batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 2 else super().training_step(batch, batch_idx)


class Scheduled(Regression):
    """A learning rate that falls with the steps or the epochs."""

    def __init__(self, optimizer: str = "sgd", interval: str = "step") -> None:
        super().__init__(optimizer)
        self.interval = interval

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        rates = self.facts.setdefault("rates", [])
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        if self.interval == "none":
            return optimizer
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.interval},
        }


class Overflowing(Scheduled):
    """Notes the scale of losses; alone it leaves out as many updates as overflow elsewhere.

    Args:
        left_out: updates at the beginning that are none.
    """

    def __init__(self, left_out: int = 0) -> None:
        super().__init__()
        self.left_out = left_out

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any
    ) -> None:
        def closure() -> Any:
            loss = optimizer_closure()
            if self.trainer.global_step < self.left_out:
                self.zero_grad()
            return loss

        optimizer.step(closure=closure)

    def on_train_end(self) -> None:
        self.facts["scaling"] = self.trainer.precision_plugin.state_dict()


class WarmingUp(Scheduled):
    """The schedule that DeepSpeed calls WarmupLR, over four updates; DeepSpeed's where `own` is False."""

    def __init__(self, own: bool = False) -> None:
        super().__init__("sgd", "none" if not own else "step")
        self.own = own

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        if not self.own:
            return optimizer
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, max(n - 1, 0) / 4))
        return [optimizer], [{"scheduler": factor, "interval": "step"}]


class Watching(Regression):
    """Looks at the gradients of each update."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        seen = self.facts.setdefault("gradients", [])
        seen.append([p.grad.detach().clone() for p in self.parameters()])


class Listening(Regression):
    """Only looks on after backward."""

    def on_after_backward(self) -> None:
        self.facts["heard"] = self.facts.get("heard", 0) + 1


class OwnClipping(Regression):
    """Clips as it likes."""

    def configure_gradient_clipping(self, optimizer: Any, value: Any, algorithm: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)


class Two(Regression):
    """Two optimizers in the module's own hands."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.first, self.second)]


class Pair(Regression):
    """Two optimizers, and none who would drive them."""

    configure_optimizers = Two.configure_optimizers


class Wide(Regression):
    """A layer in the middle of which each of two ranks has what DeepSpeed moves to a disk: a MiB, or more.

    It notes the sizes of the files that are under the folder of the variable DISK when training ends.

    Args:
        optimizer: one of `OPTIMIZERS`.
        late: make the layers when the processes are connected.
        frozen: do not train the layer in the middle.
    """

    def __init__(self, optimizer: str = "adamw", late: bool = False, frozen: bool = False) -> None:
        super().__init__(optimizer)
        self.frozen = frozen
        self.first = self.second = self.middle = None
        if not late:
            self.configure_model()

    def configure_model(self) -> None:
        if self.middle is not None:
            return
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(8, 1024), nn.Linear(1024, 4)
        # Behind a layer of 4 rows, its gradients begin where a disk cannot read to.
        self.middle = nn.Linear(1024, 1024)
        self.middle.requires_grad_(not self.frozen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.middle(torch.tanh(self.first(x)))))

    def on_train_end(self) -> None:
        files = Path(os.environ.get("DISK", OUT / "none")).rglob("*.swp")
        self.facts["disk"] = {str(path): path.stat().st_size for path in files}


class PartLoaded(Wide):
    """Takes up a part of a state before training."""

    def on_train_start(self) -> None:
        self.trainer.strategy.load_model_state({"first.bias": torch.ones(1024)}, strict=False)


class MadeLate(Regression):
    """Makes its layers when the processes are connected."""

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__(optimizer)
        del self.first, self.second
        self.first = self.second = None

    def configure_model(self) -> None:
        if self.first is not None:
            return
        torch.manual_seed(5)
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)
        self.facts["shapes"] = [tuple(p.shape) for p in self.parameters()]


class Wholes(Regression):
    """Reads whole weights, and begins from some that rank 0 wrote."""

    def setup(self, stage: str) -> None:
        self.facts["at setup"] = [tuple(p.shape) for p in self.parameters()]

    def on_train_epoch_end(self) -> None:
        from torchrelay_deepspeed import gathered

        with gathered(self.parameters()):
            self.facts["whole"] = [p.detach().clone() for p in self.parameters()]
        self.facts["after"] = [tuple(p.shape) for p in self.parameters()]


class Reading(Regression):
    """Reads whole weights within a step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not torch.distributed.is_initialized():
            return super().training_step(batch, batch_idx)
        from torchrelay_deepspeed import gathered

        with gathered(self.parameters()):
            self.facts["whole"] = [tuple(p.shape) for p in self.parameters()]
        return super().training_step(batch, batch_idx)


class Initialized(MadeLate):
    """Initializes by hand what it has made."""

    filled = False

    def configure_model(self) -> None:
        from torchrelay_deepspeed import gathered

        super().configure_model()
        if self.filled:
            return
        self.filled = True
        with gathered(self.second.parameters(), modifier_rank=0):
            if self.trainer.is_global_zero:
                with torch.no_grad():
                    self.second.weight.fill_(0.25)
                    self.second.bias.zero_()


class Checkpointed(Regression):
    """Computes the hidden layer once more in backward, as torch or as DeepSpeed does it."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        self.facts["computed"] = self.facts.get("computed", 0) + 1
        return torch.tanh(self.first(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.by == "torch" or not torch.distributed.is_initialized():
            hidden = checkpoint(self.hidden, x, use_reentrant=False)
        else:
            import deepspeed

            # As in torch's reentrant form, gradients come through an input that has some.
            hidden = deepspeed.checkpointing.checkpoint(self.hidden, x.clone().requires_grad_())
        return self.second(hidden)


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


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def leave(name: str, rank: int, result: Any) -> None:
    """Leave a rank's result for the test to read."""
    torch.save(result, OUT / f"{name}-{rank}.pt")
