"""Strategy: how a model is placed, run, updated and saved on some kind of hardware.

A driver (the Trainer, or any loop of your own) calls the strategy; the strategy never calls the driver and
does not know it. `docs/contract.md` tells when each member is called and on which ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.accelerators.accelerator import Accelerator
from torchrelay.checkpoint.checkpoint_io import CheckpointIO, Path
from torchrelay.checkpoint.model_state import load_model_state
from torchrelay.checkpoint.optimizer_names import from_names, to_names
from torchrelay.collectives.collectives import Collectives
from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.launchers.launcher import Launcher
from torchrelay.plugin.specs import Capabilities, Capability, Support
from torchrelay.precision.precision import Precision
from torchrelay.strategies.plan import Clip, Needs, Plan
from torchrelay.tree import map_tensors

Build = Callable[[nn.Module], tuple[list[Optimizer], list[Any]]]
"""Builds the optimizers and the learning-rate schedulers of a module, in the format and on the device it has."""

Closure = Callable[[], Any]

Part = TypeVar("Part")

_NOTHING: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components of a strategy that a resolution found; each fills a place that is still empty."""

    accelerator: Accelerator
    precision_plugin: Precision
    checkpoint_io: CheckpointIO
    cluster_environment: ClusterEnvironment
    devices: tuple[int, ...] = (0,)
    num_nodes: int = 1
    sync_batchnorm: bool = False


class Strategy(ABC):
    """How a model is placed, run, updated and saved on some kind of hardware.

    Composed of an accelerator, a precision, a checkpoint IO, a cluster environment, collectives and, where it
    makes processes, a launcher. Owns the module, the optimizers and the learning-rate schedulers.

    Args:
        accelerator: the kind of device; like every component, resolution supplies it when None.
        precision_plugin: the numeric formats.
        checkpoint_io: how checkpoints are written and read.
        collectives: how processes communicate.
        launcher: how processes come into being.
        cluster_environment: who started the processes, and which of them this one is.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    """What the strategy cannot do, or only under a condition; anything not named is supported."""

    process_per_device: ClassVar[bool] = True
    """Whether each device has a process of its own; otherwise one process drives all devices of its node."""

    def __init__(
        self,
        *,
        accelerator: Accelerator | None = None,
        precision_plugin: Precision | None = None,
        checkpoint_io: CheckpointIO | None = None,
        collectives: Collectives | None = None,
        launcher: Launcher | None = None,
        cluster_environment: ClusterEnvironment | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._precision_plugin = precision_plugin
        self._checkpoint_io = checkpoint_io
        self._collectives = collectives
        self._cluster_environment = cluster_environment
        self.launcher = launcher
        self.devices: tuple[int, ...] = ()
        self.num_nodes = 1
        self.sync_batchnorm = False
        self.optimizers: list[Optimizer] = []
        self.schedulers: list[Any] = []
        self._module: nn.Module | None = None
        self._model: nn.Module | None = None
        self._steps: dict[str, Callable[..., Any]] = {}
        self._finalized: set[int] = set()

    # --- composition ------------------------------------------------------------------------------------

    def bind(self, parts: Parts) -> None:
        """Fill the components that are still missing; called once, before launch.

        What the user gave to the constructor stays.
        """
        self.devices, self.num_nodes = parts.devices, parts.num_nodes
        self.sync_batchnorm = parts.sync_batchnorm
        self._accelerator = self._accelerator or parts.accelerator
        self._precision_plugin = self._precision_plugin or parts.precision_plugin
        self._checkpoint_io = self._checkpoint_io or parts.checkpoint_io
        self._cluster_environment = self._cluster_environment or parts.cluster_environment
        self._collectives = self._collectives or self.default_collectives()
        self.launcher = self.launcher or self.default_launcher()

    @abstractmethod
    def default_collectives(self) -> Collectives:
        """Collectives to use when the user gave none; the other components are bound."""

    def default_launcher(self) -> Launcher | None:
        """Launcher to use when the user gave none; None when this process is the only one, or not the first."""
        return None

    @property
    def given(self) -> dict[str, object]:
        """The components that the user gave to the constructor, by the Trainer's name for each; before `bind`."""
        parts = {
            "accelerator": self._accelerator,
            "precision": self._precision_plugin,
            "checkpoint_io": self._checkpoint_io,
            "cluster_environment": self._cluster_environment,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def accelerator(self) -> Accelerator:
        """The kind of device."""
        return _bound(self._accelerator, "accelerator")

    @property
    def precision_plugin(self) -> Precision:
        """The numeric formats."""
        return _bound(self._precision_plugin, "precision_plugin")

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """How checkpoints are written and read."""
        return _bound(self._checkpoint_io, "checkpoint_io")

    @property
    def cluster_environment(self) -> ClusterEnvironment:
        """Who started the processes, and which of them this one is."""
        return _bound(self._cluster_environment, "cluster_environment")

    @property
    def collectives(self) -> Collectives:
        """How processes communicate."""
        return _bound(self._collectives, "collectives")

    # --- ranks ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def root_device(self) -> torch.device:
        """The device of this process."""

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return 1

    @property
    def global_rank(self) -> int:
        """This process among all of the run."""
        return 0

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return 0

    @property
    def node_rank(self) -> int:
        """This node among those of the run."""
        return 0

    @property
    def is_global_zero(self) -> bool:
        """Whether this process has global rank 0."""
        return self.global_rank == 0

    @property
    def sampler_arguments(self) -> dict[str, int] | None:
        """`num_replicas` and `rank` for a distributed sampler; None where each process reads all the data."""
        return None

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
        self._model = None
        self._steps.clear()
        if self._module is not None:
            self._release(self._module)
        self.collectives.close()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def _release(self, module: nn.Module) -> None:
        module.to("cpu")
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                optimizer.state[parameter] = map_tensors(state, lambda tensor: tensor.cpu())

    # --- model and optimizers ---------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        """The user's module, unwrapped."""
        return _bound(self._module, "module")

    @property
    def model(self) -> nn.Module:
        """What training steps run through: the module, or whatever wraps it."""
        return _bound(self._model, "model")

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

    def adopt(self, module: nn.Module) -> None:
        """Take over the user's module."""
        self._module = self._model = module
        self._steps.clear()
        self.optimizers, self.schedulers = [], []

    def place(self) -> None:
        """Give the module its format and move it to the device."""
        self.model = self.precision_plugin.convert_module(self.module).to(self.root_device)

    def wrap(self) -> None:
        """Wrap the model for training, if the backend does."""

    def build(self, build: Build) -> None:
        """Build the optimizers and refuse those that the strategy cannot drive."""
        self.optimizers, self.schedulers = build(self.module)
        self.check_optimizers()

    def check_optimizers(self) -> None:
        """Refuse optimizers that the strategy cannot drive; alike on every rank.

        Raises:
            UnsupportedError: several optimizers, or one that calls its closure several times.
        """
        if len(self.optimizers) > 1:
            self._require(Capability.MULTIPLE_OPTIMIZERS, "configure_optimizers")
        for optimizer in self.optimizers:
            if isinstance(optimizer, torch.optim.LBFGS):
                self._require(Capability.CLOSURE_OPTIMIZERS, type(optimizer).__name__)

    def _require(self, capability: Capability, origin: str) -> None:
        declaration = self.capabilities[capability]
        if declaration.support is Support.UNSUPPORTED:
            name = type(self).__name__
            raise UnsupportedError(
                f"{origin} needs {capability.value}; {name} refuses it: {declaration.reason}"
            )

    def swap_optimizer(self, index: int, new: Optimizer) -> None:
        """Put `new` in the place of an optimizer and let its schedulers follow."""
        old, self.optimizers[index] = self.optimizers[index], new
        for scheduler in self.schedulers:
            if getattr(scheduler, "optimizer", None) is old:
                scheduler.optimizer = new

    # --- data -------------------------------------------------------------------------------------------

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        """Replace a data loader by one that suits the backend; after samplers were injected."""
        return loader

    def batch_to_device(self, batch: Any) -> Any:
        """Move a batch of nested tensors to the device, in the precision's format."""
        batch = map_tensors(batch, self._tensor_to_device)
        return (
            self.precision_plugin.convert_batch(batch)
            if self.precision_plugin.converts_batches
            else batch
        )

    def _tensor_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
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

    def evaluation_step(self, name: str, batch: Any, batch_idx: int) -> Any:
        """Run the module's `validation_step`, `test_step` or `predict_step`, on the unwrapped module."""
        return self.step_function(name)(batch, batch_idx)

    def step_function(self, name: str) -> Callable[..., Any]:
        """The function behind a step, in the precision's arithmetic; made once, so that a step costs one call."""
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = self.precision_plugin.wrap_step(self.raw_step(name))
        return step

    def raw_step(self, name: str) -> Callable[..., Any]:
        """The function behind a step, before the precision wraps it."""
        step: Callable[..., Any] = getattr(self.module, name)
        return step

    def accumulating(self) -> AbstractContextManager[Any]:
        """Context around each micro-batch that does not end its window."""
        return _NOTHING

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients, scaled as the precision needs."""
        if self._finalized:
            self._finalized.clear()
        self.precision_plugin.backward(loss, self.run_backward)

    def run_backward(self, loss: torch.Tensor) -> None:
        """Let the module run the backward pass of a loss that is scaled already."""
        loss.backward()  # type: ignore[no-untyped-call]

    def finalize_gradients(self, optimizer: Optimizer) -> None:
        """Make each parameter's `.grad` what the update will see: reduced and unscaled.

        Does nothing when called again before the next backward.
        """
        if id(optimizer) not in self._finalized:
            self._finalized.add(id(optimizer))
            self.precision_plugin.unscale(optimizer)

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

    # --- state ------------------------------------------------------------------------------------------

    def model_state(self) -> dict[str, Any]:
        """The module's state by parameter name. Collective; complete on rank 0."""
        return self.module.state_dict()

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a state by parameter name, whatever strategy wrote it.

        Raises:
            CheckpointError: it is another model's; the message names the keys.
        """
        load_model_state(self.module, state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state by parameter name. Collective; complete on rank 0."""
        return to_names(optimizer, self.parameter_names())

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Load a state by parameter name (integer keys are accepted), whatever strategy wrote it."""
        optimizer.load_state_dict(from_names(optimizer, state, self.parameter_names()))

    def parameter_names(self) -> dict[nn.Parameter, str]:
        """The name under which each parameter travels."""
        return {parameter: name for name, parameter in self.module.named_parameters()}

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint that all ranks have made together. Collective; returns when it is written."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)
        self.collectives.barrier("save_checkpoint")

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """Read a checkpoint, on every rank."""
        return self.checkpoint_io.load_checkpoint(
            path, map_location="cpu", weights_only=weights_only
        )

    def remove_checkpoint(self, path: Path) -> None:
        """Remove a checkpoint, once."""
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(path)


def _bound(part: Part | None, name: str) -> Part:
    if part is None:
        raise ConfigurationError(
            f"the strategy's {name} is not there yet; call bind() first (a Trainer does), then setup()"
        )
    return part
