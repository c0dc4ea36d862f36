"""A backend that owns the optimizer: it keeps flat copies of the weights, accumulates, clips and updates by itself.

The strategy below knows torchrelay's public contract and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint import from_names, to_names
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import Build, Plan, SingleDeviceStrategy, StepDispatcher


class EngineError(RuntimeError):
    """The engine was called in a wrong order."""


class Engine(nn.Module):
    """Each micro-batch is told whether it ends its window, then goes forward, backward and `step`.

    Gradients are nowhere to be seen: `backward` collects them in the flat copies and takes them off the parameters.
    """

    def __init__(
        self, model: nn.Module, client: Optimizer, *, window: int, max_norm: float | None
    ) -> None:
        super().__init__()
        self.model = model
        self.window = window
        self.max_norm = max_norm
        self.shards = [list(group["params"]) for group in client.param_groups]
        self.masters = [nn.Parameter(_flat(shard)) for shard in self.shards]
        self.optimizer = type(client)(
            [
                {**group, "params": [master]}
                for group, master in zip(client.param_groups, self.masters, strict=True)
            ]
        )
        self.phase = "idle"
        self.boundary: bool | None = None

    def set_boundary(self, boundary: bool) -> None:
        self._expect("idle", "set_boundary")
        self.boundary = boundary

    def forward(self, *args: Any) -> Any:
        self._expect("idle", "forward")
        if self.boundary is None:
            raise EngineError("forward before anybody said whether the window ends here")
        self.phase = "forward"
        return self.model(*args)

    def backward(self, loss: torch.Tensor) -> None:
        self._expect("forward", "backward")
        (loss / self.window).backward()
        for shard, master in zip(self.shards, self.masters, strict=True):
            gradient = _flat([p.grad for p in shard])
            master.grad = gradient if master.grad is None else master.grad + gradient
            for parameter in shard:
                parameter.grad = None
        self.phase = "backward"

    def step(self) -> None:
        """Settle a micro-batch, also one without a loss; update if it ends the window."""
        if self.phase == "idle":
            raise EngineError("step without a micro-batch")
        if self.boundary:
            if self.max_norm is not None:
                nn.utils.clip_grad_norm_(self.masters, self.max_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.publish()
        self.phase, self.boundary = "idle", None

    def _expect(self, phase: str, call: str) -> None:
        if self.phase != phase:
            raise EngineError(f"{call} in phase {self.phase!r}, not {phase!r}")

    @torch.no_grad()
    def publish(self) -> None:
        """Give the model the weights of the flat copies."""
        for shard, master in zip(self.shards, self.masters, strict=True):
            for parameter, value in zip(shard, _pieces(master, shard), strict=True):
                parameter.copy_(value)

    @torch.no_grad()
    def adopt(self) -> None:
        """Take the weights of the model, which the next update would otherwise undo."""
        for shard, master in zip(self.shards, self.masters, strict=True):
            master.copy_(_flat(shard))

    def state(self) -> dict[str, Any]:
        """The optimizer's state as if it had the parameters themselves, numbered as torch does."""
        numbered: dict[int, Any] = {}
        groups = []
        for group, shard, master in zip(
            self.optimizer.param_groups, self.shards, self.masters, strict=True
        ):
            first = sum(len(g["params"]) for g in groups)
            groups.append({**group, "params": list(range(first, first + len(shard)))})
            for key, value in self.optimizer.state.get(master, {}).items():
                # A step count belongs to the whole shard: each parameter gets one of its own.
                whole = value.numel() != master.numel()
                values = [value.clone() for _ in shard] if whole else _pieces(value, shard)
                for index, piece in zip(groups[-1]["params"], values, strict=True):
                    numbered.setdefault(index, {})[key] = piece.clone()
        return {"state": numbered, "param_groups": groups}

    def load_state(self, numbered: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        flat: dict[int, Any] = {}
        for place, group in enumerate(numbered["param_groups"]):
            states = [numbered["state"].get(index, {}) for index in group["params"]]
            flat[place] = {
                key: _flat([s[key] for s in states]) if value.dim() else value.clone()
                for key, value in states[0].items()
                if value is not None
            }
        groups = [
            {**group, "params": [place]} for place, group in enumerate(numbered["param_groups"])
        ]
        self.optimizer.load_state_dict({"state": flat, "param_groups": groups})


def _flat(tensors: list[Any]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _pieces(flat: torch.Tensor, like: list[Any]) -> list[torch.Tensor]:
    pieces = flat.detach().split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]


class EngineStrategy(SingleDeviceStrategy):
    """Leaves accumulation, loss scaling, clipping and the update to the engine."""

    capabilities = Capabilities(
        declared={
            Capability.MULTIPLE_OPTIMIZERS: unsupported("an engine has one optimizer"),
            Capability.CLOSURE_OPTIMIZERS: unsupported("the engine updates without a closure"),
            Capability.CUSTOM_OPTIMIZER_STEP: unsupported("the engine counts every micro-batch"),
            Capability.MANUAL_OPTIMIZATION: unsupported("the engine decides when to update"),
            Capability.CLIP_BY_VALUE: unsupported("the engine clips by norm alone"),
            Capability.GRADIENTS_VISIBLE: unsupported("the engine keeps gradients to itself"),
        }
    )

    asked = Plan()

    def negotiate(self, plan: Plan) -> Plan:
        self.asked = plan
        return replace(plan, loss_divisor=1, clip=None)

    def setup(self, module: nn.Module, build: Build | None) -> None:
        self.adopt(module)
        self.place()
        if build is not None:
            self.build(build)
            self.wrap()

    def wrap(self) -> None:
        [self.client] = self.optimizers
        clip = self.asked.clip
        self.model = self.engine = Engine(
            StepDispatcher(self.module),
            self.client,
            window=self.asked.accumulate,
            max_norm=None if clip is None else clip.value,
        )
        self.swap_optimizer(0, self.engine.optimizer)

    def raw_step(self, name: str) -> Callable[..., Any]:
        if name != "training_step":
            return super().raw_step(name)
        return lambda *args: self.engine(name, *args)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        self.engine.set_boundary(False)
        yield
        self.engine.step()

    def backward(self, loss: torch.Tensor) -> None:
        self.engine.backward(loss)

    def finalize_gradients(self, optimizer: Optimizer) -> None:
        pass

    def zero_grad(self, optimizer: Optimizer) -> None:
        pass

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        self.engine.set_boundary(True)
        result = closure()
        self.engine.step()
        return result

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        super().load_model_state(state, strict=strict)
        if self.optimizers:
            self.engine.adopt()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return to_names(self.client, self.parameter_names(), self.engine.state())

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        self.engine.load_state(from_names(self.client, state, self.parameter_names()))
