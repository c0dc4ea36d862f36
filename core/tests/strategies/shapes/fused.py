"""A backend that fuses the whole step: forward, loss, backward, accumulation and update happen in one call.

The strategy below knows torchrelay's public contract and nothing else of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.optim import Optimizer

from torchrelay.checkpoint import from_names, to_names
from torchrelay.errors import ConfigurationError
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import Build, Plan, SingleDeviceStrategy, StepDispatcher


class DeviceError(RuntimeError):
    """The device was used in a state in which it cannot be."""


class Device:
    """Weights and an optimizer of its own, apart from the host's, and a step compiled for both.

    While the device's weights are newer, the host's are NaN: whoever reads them without asking, notices.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, *, window: int, max_norm: float | None
    ) -> None:
        self.module = module
        self.window = window
        self.max_norm = max_norm
        self.parameters = {
            n: nn.Parameter(p.detach().clone()) for n, p in module.named_parameters()
        }
        self.buffers = {n: b.clone() for n, b in module.named_buffers()}
        mine = {p: self.parameters[n] for n, p in module.named_parameters()}
        self.optimizer = type(optimizer)(
            [{**g, "params": [mine[p] for p in g["params"]]} for g in optimizer.param_groups]
        )
        self.attached = self.newer = False

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {**self.parameters, **self.buffers}

    def attach(self) -> None:
        if self.attached:
            raise DeviceError("attached already")
        self.attached = True
        self._copy(self._host(), self.tensors)

    def detach(self) -> None:
        if not self.attached:
            raise DeviceError("not attached")
        self.copy_to_host()
        self.attached = False

    def copy_to_host(self) -> None:
        if self.newer:
            self._copy(self.tensors, self._host())
            self.newer = False

    def set_optimizer(self, optimizer: Optimizer) -> None:
        """Take up the options, such as learning rates, of the host's optimizer."""
        for mine, theirs in zip(self.optimizer.param_groups, optimizer.param_groups, strict=True):
            mine.update({key: value for key, value in theirs.items() if key != "params"})

    def run(self, step: Callable[[Any, int], torch.Tensor], batches: list[Any], first: int) -> Any:
        """Train on some windows; the last loss, which has no graph."""
        if not self.attached:
            raise DeviceError("run while detached")
        self._poison()
        for start in range(0, len(batches), self.window):
            self.optimizer.zero_grad()
            for i, batch in enumerate(batches[start : start + self.window], first + start):
                loss = step(batch, i)
                (loss / self.window).backward()
            if self.max_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters.values(), self.max_norm)
            self.optimizer.step()
        return loss.detach()

    def _host(self) -> dict[str, torch.Tensor]:
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    @torch.no_grad()
    def _copy(self, source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in target.items():
            tensor.copy_(source[name])

    @torch.no_grad()
    def _poison(self) -> None:
        if not self.newer:
            for tensor in self._host().values():
                tensor.fill_(torch.nan if tensor.is_floating_point() else -1)
        self.newer = True


class Combined:
    """Lists of `together` batches of a loader."""

    def __init__(self, loader: Iterable[Any], together: int) -> None:
        self.loader: Any = loader
        self.together = together

    def __len__(self) -> int:
        return math.ceil(len(self.loader) / self.together)

    def __iter__(self) -> Iterator[list[Any]]:
        rest = iter(self.loader)
        while batches := list(islice(rest, self.together)):
            yield batches


class FusedStrategy(SingleDeviceStrategy):
    """Gives the device whole windows and forwards learning rates; the loop has nothing left to do.

    Args:
        iterations: windows, and so updates, in one call.
    """

    capabilities = Capabilities(
        declared={
            Capability.MULTIPLE_OPTIMIZERS: unsupported("one optimizer is compiled into the step"),
            Capability.CLOSURE_OPTIMIZERS: unsupported("the compiled step has no closure"),
            Capability.CUSTOM_OPTIMIZER_STEP: unsupported("the update is inside the compiled step"),
            Capability.MANUAL_OPTIMIZATION: unsupported("the update is inside the compiled step"),
            Capability.CLIP_BY_VALUE: unsupported("the compiled step clips by norm alone"),
            Capability.GRADIENTS_VISIBLE: unsupported("gradients never leave the device"),
            Capability.ITERABLE_DATASETS: unsupported("a call takes a known number of batches"),
        }
    )

    asked = Plan()

    def __init__(self, iterations: int = 1, **components: Any) -> None:
        super().__init__(**components)
        self.iterations = iterations

    def negotiate(self, plan: Plan) -> Plan:
        self.asked = plan
        return Plan(updates=self.iterations)

    def setup(self, module: nn.Module, build: Build | None) -> None:
        self.device: Device | None = None
        self.adopt(module)
        self.place()
        if build is not None:
            self.build(build)
            self.wrap()

    def wrap(self) -> None:
        clip = self.asked.clip
        self.model = StepDispatcher(self.module)
        self.device = Device(
            self.module,
            self.optimizers[0],
            window=self.asked.accumulate,
            max_norm=None if clip is None else clip.value,
        )

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        if stage != "train":
            return loader
        together = self.asked.accumulate * self.iterations
        whole: Any = loader
        if self.iterations > 1 and len(whole) % together:
            raise ConfigurationError(
                f"{len(whole)} batches cannot be taken {together} at a time; change the number of batches"
            )
        return Combined(loader, together)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The device is attached while training and not evaluating."""
        if self.device is None:
            yield
            return
        training = name == "train"
        before = self.device.attached
        self._attach(training)
        try:
            yield
        finally:
            self._attach(before)

    def _attach(self, wanted: bool) -> None:
        if self.device is not None and self.device.attached != wanted:
            self.device.attach() if wanted else self.device.detach()

    def raw_step(self, name: str) -> Callable[..., Any]:
        device = self.device
        if name != "training_step" or device is None:
            return super().raw_step(name)
        weights = {f"module.{n}": tensor for n, tensor in device.tensors.items()}
        return lambda *args: functional_call(self.model, weights, (name, *args))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.device.set_optimizer(self.optimizers[0])
        first = batch_idx * self.asked.accumulate * self.iterations
        return self.device.run(self.step_function("training_step"), batch, first)

    def backward(self, loss: torch.Tensor) -> None:
        if loss.requires_grad:
            raise DeviceError("a loss with a graph cannot come from the device")

    def finalize_gradients(self, optimizer: Optimizer) -> None:
        pass

    def zero_grad(self, optimizer: Optimizer) -> None:
        pass

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        return closure()

    def model_state(self) -> dict[str, Any]:
        if self.device is not None:
            self.device.copy_to_host()
        return {name: value.clone() for name, value in super().model_state().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        self.device.set_optimizer(optimizer)
        return to_names(self.device.optimizer, self._device_names())

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        super().load_optimizer_state(optimizer, state)  # schedulers read the host's options
        device = self.device.optimizer
        device.load_state_dict(from_names(device, state, self._device_names()))

    def _device_names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.device.parameters.items()}
