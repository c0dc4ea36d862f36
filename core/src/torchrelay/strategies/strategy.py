"""Strategy: how a model is placed, run, updated and saved on some kind of hardware.

A driver (the Trainer, or any loop of your own) calls the strategy; the strategy never calls the driver and
does not know it. `docs/contract.md` tells when each member is called and on which ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.errors import UnsupportedError
from torchrelay.plugin.specs import Capabilities, Capability, Support
from torchrelay.precision.mixed import drives_its_closure
from torchrelay.strategies.communication import Communication
from torchrelay.strategies.components import bound
from torchrelay.strategies.plan import Clip, Needs, Plan
from torchrelay.strategies.schedulers import expect_updates, follow
from torchrelay.strategies.state import Stateful
from torchrelay.strategies.steps import step_of
from torchrelay.tree import map_tensors

Build = Callable[[nn.Module], tuple[list[Optimizer], list[Any]]]
"""Builds the optimizers and the learning-rate schedulers of a module, in the format and on the device it has."""

Closure = Callable[[], Any]

_NOTHING: AbstractContextManager[None] = nullcontext()


class Strategy(Communication, Stateful):
    """How a model is placed, run, updated and saved on some kind of hardware.

    Composed of an accelerator, a precision, a checkpoint IO, a cluster environment, collectives and, where it
    makes processes, a launcher. Owns the module, the optimizers and the learning-rate schedulers.

    Args:
        components: accelerator, precision_plugin, checkpoint_io, collectives, launcher, cluster_environment; see
            `Composed`.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    """What the strategy cannot do, or only under a condition; anything not named is supported."""

    process_per_device: ClassVar[bool] = True
    """Whether each device has a process of its own; otherwise one process drives all devices of its node."""

    def __init__(self, **components: Any) -> None:
        super().__init__(**components)
        self.optimizers: list[Optimizer] = []
        self.schedulers: list[Any] = []
        self._module: nn.Module | None = None
        self._model: nn.Module | None = None
        self.backward_through: Callable[[torch.Tensor], Any] = torch.Tensor.backward
        self._steps: dict[str, Callable[..., Any]] = {}
        self._finalized: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind: a process that is about to be launched sets up its own."""
        empty: dict[str, Any] = {
            "optimizers": [],
            "schedulers": [],
            "backward_through": torch.Tensor.backward,
            "_module": None,
            "_model": None,
        }
        return {**self.__dict__, **empty, "_steps": {}, "_finalized": set()}

    # --- what it can do ---------------------------------------------------------------------------------

    def refusals(self, needs: Needs) -> list[str]:
        """Why the run cannot be done, one sentence each; asked before any process starts.

        A strategy with conditions of its own extends the list.
        """
        precisions = self.capabilities.precisions
        reasons = [
            f"{origin} needs {capability.value}: {self.capabilities[capability].reason}"
            for capability, origin in needs.capabilities.items()
            if self.capabilities[capability].support is Support.UNSUPPORTED
        ]
        if precisions is not None and needs.precision not in precisions:
            reasons.append(f"precision={needs.precision!r} is none of its {', '.join(precisions)}")
        return reasons

    def negotiate(self, plan: Plan) -> Plan:
        """Take of the plan what the backend does by itself and return what is left for the loop."""
        return plan

    # --- process life -----------------------------------------------------------------------------------

    def setup_environment(self) -> None:
        """Make this process ready: current device, connection to the others. Collective."""
        self.accelerator.setup_device(self.root_device)
        self.precision_plugin.setup(self.root_device)
        self.collectives.connect(self.cluster_environment, self.root_device)

    def on_exception(self, error: BaseException) -> None:
        """Hear of an exception in this process.

        Never a collective: the other ranks may be anywhere.
        """

    def teardown(self) -> None:
        """Part from the other processes and leave the module usable on the CPU."""
        self.unwrap()
        if self._module is not None:
            self.release()
        self.collectives.close()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def unwrap(self) -> None:
        """Let go of what wrapped the model; the connection is still there."""
        self._model = None
        self._steps.clear()

    def release(self) -> None:
        """Leave the module, and the state of its optimizers, on the CPU."""
        self.module.to("cpu")
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                optimizer.state[parameter] = map_tensors(state, lambda tensor: tensor.cpu())

    # --- model and optimizers ---------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        """The user's module, unwrapped."""
        return bound(self._module, "module")

    @property
    def model(self) -> nn.Module:
        """What training steps run through: the module, or whatever wraps it."""
        return bound(self._model, "model")

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._model = model

    def setup(self, module: nn.Module, build: Build | None) -> None:
        """Place and wrap the module, and build its optimizers, in this backend's order.

        Restoring a checkpoint comes after.

        Args:
            module: the user's module.
            build: builds optimizers and schedulers; None when only evaluating.
        """
        self.adopt(module)
        self.place()
        if build is not None:
            self.wrap()
            self.build(build)

    def init_context(self) -> AbstractContextManager[Any]:
        """Context in which the user's `configure_model` makes layers; the processes are connected."""
        return self.precision_plugin.init_context()

    def adopt(self, module: nn.Module) -> None:
        """Take over the user's module."""
        self._module = self._model = module
        self._steps.clear()
        self.optimizers, self.schedulers = [], []
        self.backward_through = torch.Tensor.backward

    def place(self) -> None:
        """Give the module its format and move it to the device."""
        self.model = self.precision_plugin.convert_module(self.module).to(self.root_device)

    def wrap(self) -> None:
        """Wrap the model for training, if the backend does."""

    def build(self, build: Build) -> None:
        """Build the optimizers and refuse those that the strategy cannot drive."""
        self.optimizers, self.schedulers = build(self.module)
        expect_updates(self.schedulers)
        self.check_optimizers()

    def check_optimizers(self) -> None:
        """Refuse optimizers that the strategy cannot drive; alike on every rank.

        Raises:
            UnsupportedError: several optimizers, or one that calls its closure several times.
        """
        if len(self.optimizers) > 1:
            self.require(Capability.MULTIPLE_OPTIMIZERS, "configure_optimizers")
        for optimizer in self.optimizers:
            if drives_its_closure(type(optimizer).step):
                self.require(Capability.CLOSURE_OPTIMIZERS, type(optimizer).__name__)

    def require(self, capability: Capability, origin: str) -> None:
        """Refuse what turns out to be needed only when the processes run; to be called alike on every rank.

        Args:
            capability: what is needed.
            origin: where the need comes from, in the user's words.

        Raises:
            UnsupportedError: the strategy declares that it has not got it.
        """
        declaration = self.capabilities[capability]
        if declaration.support is Support.UNSUPPORTED:
            name = type(self).__name__
            raise UnsupportedError(
                f"{origin} needs {capability.value}; {name} refuses it: {declaration.reason}"
            )

    def swap_optimizer(self, index: int, new: Optimizer) -> None:
        """Put `new` in the place of an optimizer and let its schedulers follow."""
        old, self.optimizers[index] = self.optimizers[index], new
        follow(self.schedulers, old, new)

    # --- data -------------------------------------------------------------------------------------------

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        """Replace a data loader by one that suits the backend; after samplers were injected."""
        return loader

    def batch_to_device(self, batch: Any) -> Any:
        """Move a batch of nested tensors to the device, in the precision's format."""
        batch = map_tensors(batch, self.tensor_to_device)
        return (
            self.precision_plugin.convert_batch(batch)
            if self.precision_plugin.converts_batches
            else batch
        )

    def tensor_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a batch, on the device."""
        return tensor.to(self.root_device, non_blocking=True)

    # --- steps ------------------------------------------------------------------------------------------

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Context around a stage: "train", "validate", "test" or "predict"; validation nests in training."""
        return _NOTHING

    def grad_off(self) -> AbstractContextManager[Any]:
        """Context without gradients for evaluation; `torch.no_grad` where that is all the backend can take."""
        return torch.inference_mode()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Run the module's `training_step` through the model."""
        return self.step_function("training_step")(batch, batch_idx)

    def evaluation_step(
        self, name: str, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> Any:
        """Run the module's `validation_step`, `test_step` or `predict_step`, on the unwrapped module.

        `dataloader_idx` is given where there are several data loaders.
        """
        if dataloader_idx is None:
            return self.step_function(name)(batch, batch_idx)
        return self.step_function(name)(batch, batch_idx, dataloader_idx=dataloader_idx)

    def step_function(self, name: str) -> Callable[..., Any]:
        """The function behind a step, in the precision's arithmetic; made once, so that a step costs one call."""
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = self.precision_plugin.wrap_step(self.raw_step(name))
        return step

    def raw_step(self, name: str) -> Callable[..., Any]:
        """The function behind a step, before the precision wraps it."""
        return step_of(self.module, name)

    def accumulating(self) -> AbstractContextManager[Any]:
        """Context around each micro-batch that does not end its window."""
        return _NOTHING

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients, scaled as the precision needs."""
        if self._finalized:
            self._finalized.clear()
        self.precision_plugin.backward(loss, self.run_backward)

    def run_backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass of a loss that is scaled already, through `backward_through`."""
        self.backward_through(loss)

    def finalize_gradients(self, optimizer: Optimizer) -> None:
        """Make each parameter's `.grad` what the update will see: reduced and unscaled.

        Does nothing when called again before the next backward.
        """
        if id(optimizer) not in self._finalized:
            self._finalized.add(id(optimizer))
            self.reduce_gradients(optimizer)
            self.precision_plugin.unscale(optimizer)

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Combine the gradients over ranks, where backward has not done so; once after a backward. Collective."""

    def clip_gradients(self, optimizer: Optimizer, clip: Clip) -> None:
        """Clip the finalized gradients of an optimizer's parameters."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if clip.algorithm == "norm":
            nn.utils.clip_grad_norm_(parameters, clip.value)
        else:
            nn.utils.clip_grad_value_(parameters, clip.value)

    def zero_grad(self, optimizer: Optimizer) -> None:
        """Clear the gradients of an optimizer's parameters."""
        optimizer.zero_grad()

    def optimizer_step(self, optimizer: Optimizer, closure: Closure) -> Any:
        """Run `closure` (forward, backward, finalize, clip), update, and return the closure's result."""
        return self.precision_plugin.optimizer_step(optimizer, closure)
