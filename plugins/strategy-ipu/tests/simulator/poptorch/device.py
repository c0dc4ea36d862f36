"""Simulated: what a compiled model has on the device: weights, an optimizer and a recorded step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from poptorch import optim

marked: list[torch.Tensor] = []
"""The losses that the step under way has marked."""

KINDS = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RMSprop": torch.optim.RMSprop,
}


def raw(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, without anything that reading them sets off."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for prefix, module in _modules(model):
        for kind in ("_parameters", "_buffers"):
            for name, tensor in object.__getattribute__(module, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


def _modules(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    found = [(prefix, model)]
    for name, child in object.__getattribute__(model, "_modules").items():
        if child is not None:
            found += _modules(child, f"{prefix}.{name}" if prefix else name)
    return found


class Program:
    """A step that Python has run once, and weights of its own.

    Args:
        model: whose forward is recorded.
        inputs: those of one micro-batch.
        error: class of what is raised.
        training: whether there has to be a loss.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[torch.Tensor, ...],
        error: type[Exception],
        training: bool,
    ) -> None:
        host = raw(model)
        self.weights = {name: _copied(tensor) for name, tensor in host.items()}
        self.names = {id(tensor): name for name, tensor in host.items()}
        self.optimizer: torch.optim.Optimizer | None = None
        self.max_norm = float("inf")
        marked.clear()
        scratch = {name: _copied(tensor) for name, tensor in host.items()}

        def step(weights: dict[str, torch.Tensor], *tensors: torch.Tensor) -> Any:
            outputs = functional_call(model, weights, tensors)
            flat = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
            return tuple(flat), tuple(marked[-1:]) if training else ()

        self.graph = make_fx(step)(scratch, *inputs)
        if training and len(marked) != 1:
            raise error(
                f"{len(marked)} losses are marked in the graph, and there has to be one: "
                "poptorch.identity_loss"
            )

    # --- copies -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def upload(self, host: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.weights.items():
            tensor.copy_(host[name].data)

    @torch.no_grad()
    def download(self, host: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.weights.items():
            host[name].data.copy_(tensor)

    # --- the optimizer ----------------------------------------------------------------------------------

    def take(self, groups: list[dict[str, Any]], kind: str) -> None:
        """Take up the options of the host's optimizer; the state is the device's."""
        mine = [
            {**group, "params": [self.weights[self.names[id(p)]] for p in group["params"]]}
            for group in groups
        ]
        if self.optimizer is None:
            self.optimizer = KINDS[kind](mine, lr=mine[0]["lr"])
            return
        for own, other in zip(self.optimizer.param_groups, mine, strict=True):
            own.update({key: value for key, value in other.items() if key != "params"})

    def read_state(self) -> dict[str, torch.Tensor]:
        kind = type(self.optimizer).__name__
        inverse = {id(tensor): name for name, tensor in self.weights.items()}
        return {
            f"{prefix}{inverse[id(parameter)]}": torch.as_tensor(entry[key]).clone()
            for parameter, entry in self.optimizer.state.items()
            for key, prefix in optim.PREFIXES[kind].items()
            if entry.get(key) is not None
        }

    def write_state(self, state: dict[str, torch.Tensor]) -> None:
        kind = type(self.optimizer).__name__
        for name, parameter in self.weights.items():
            entry = {
                key: state[prefix + name].clone()
                for key, prefix in optim.PREFIXES[kind].items()
                if prefix + name in state
            }
            if entry:
                self.optimizer.state[parameter] = entry

    # --- running ----------------------------------------------------------------------------------------

    def evaluate(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.graph(self.weights, *inputs)[0]

    def update(self, micro: list[list[torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
        """One update from the mean gradient of some micro-batches."""
        trained = [tensor for tensor in self.weights.values() if tensor.requires_grad]
        for tensor in trained:
            tensor.grad = None
        results = []
        for inputs in micro:
            with torch.enable_grad():
                outputs, (loss,) = self.graph(self.weights, *inputs)
                (loss.sum() / len(micro)).backward()
            results.append(tuple(each.detach() for each in outputs))
        if self.max_norm != float("inf"):
            nn.utils.clip_grad_norm_(trained, self.max_norm)
        self.optimizer.step()
        return results


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.data.clone().as_subclass(torch.Tensor).requires_grad_(tensor.requires_grad)
