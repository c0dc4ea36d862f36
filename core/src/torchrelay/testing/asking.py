"""Programs that ask a strategy for one capability each, to see it refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from torchrelay.callbacks import EMAWeightAveraging
from torchrelay.environments import TorchrunEnvironment
from torchrelay.plugin.specs import Capability
from torchrelay.testing.context import Context
from torchrelay.testing.models import Regression, loader, samples


class ByHand(Regression):
    """Optimizes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """One update of each optimizer."""
        optimizers = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


class TwoOptimizers(ByHand):
    """An optimizer for each layer."""

    def configure_optimizers(self) -> Any:
        """Two of them."""
        return [torch.optim.SGD(self.net[at].parameters(), lr=0.05) for at in (0, 2)]


class Closures(Regression):
    """An optimizer that calls its closure several times."""

    def configure_optimizers(self) -> Any:
        """LBFGS."""
        return torch.optim.LBFGS(self.parameters())


class OwnStep(Regression):
    """Its own `optimizer_step`."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """What it would be anyway."""
        super().optimizer_step(*args, **kwargs)


class Skips(Regression):
    """Makes no update in its first step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """None at first."""
        return None if batch_idx == 0 else super().training_step(batch, batch_idx)


class ReadsGradients(Regression):
    """Looks at its gradients before an update."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Read them."""
        [parameter.grad for parameter in self.parameters()]


class Normalized(Regression):
    """Batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


class Stream(IterableDataset[Any]):
    """Samples without a length."""

    def __iter__(self) -> Any:
        data = samples(16)
        return iter([data[at] for at in range(len(data))])


def ask(context: Context, capability: str) -> None:
    """Ask for a capability, by its name."""
    ASKS[Capability[capability]](context)


def _fit(model: Callable[[], Any], **options: Any) -> Callable[[Context], None]:
    def run(context: Context) -> None:
        made = {name: value() if callable(value) else value for name, value in options.items()}
        context.trainer(**made).fit(model(), loader(64))

    return run


def _stream(context: Context) -> None:
    context.trainer(max_steps=2).fit(Regression(), DataLoader(Stream(), batch_size=4))


def _two_machines(context: Context) -> None:
    """A Trainer as the first of two machines makes it; nothing is launched, as the other machine is not there."""
    devices = context.subject.devices
    ranks = {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0}
    sizes = {"WORLD_SIZE": 2 * devices, "LOCAL_WORLD_SIZE": devices, "MASTER_PORT": 29500}
    variables = {name: str(value) for name, value in {**ranks, **sizes}.items()}
    context.trainer(num_nodes=2, plugins=TorchrunEnvironment(variables))


ASKS: dict[Capability, Callable[[Context], object]] = {
    Capability.MANUAL_OPTIMIZATION: _fit(ByHand),
    Capability.MULTIPLE_OPTIMIZERS: _fit(TwoOptimizers),
    Capability.CLOSURE_OPTIMIZERS: _fit(Closures),
    Capability.CUSTOM_OPTIMIZER_STEP: _fit(OwnStep),
    Capability.GRADIENT_ACCUMULATION: _fit(Regression, accumulate_grad_batches=2),
    Capability.CLIP_BY_NORM: _fit(Regression, gradient_clip_val=0.5),
    Capability.CLIP_BY_VALUE: _fit(
        Regression, gradient_clip_val=0.5, gradient_clip_algorithm="value"
    ),
    Capability.SKIPPED_STEPS: _fit(Skips),
    Capability.GRADIENTS_VISIBLE: _fit(ReadsGradients),
    Capability.SYNC_BATCHNORM: _fit(Normalized, sync_batchnorm=True),
    Capability.MULTIPLE_NODES: _two_machines,
    Capability.ITERABLE_DATASETS: _stream,
    Capability.EVALUATION: lambda c: c.trainer().validate(Regression(), loader(), verbose=False),
    Capability.PREDICTION: lambda c: c.trainer().predict(Regression(), loader()),
    Capability.WHOLE_WEIGHTS: _fit(Regression, callbacks=EMAWeightAveraging),
}
"""What asks for each capability that can be refused."""
