"""A backend of lazy tensors: moving a module makes new Parameters, and the loader cuts the graph at each batch.

The strategy below knows torchrelay's public contract and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import Build, Clip, SingleDeviceStrategy


class LazyError(RuntimeError):
    """The graph was used in a wrong order."""


class Graph:
    """Counts syncs; a second step before a sync, or an update of gradients that are local, is an error."""

    def __init__(self) -> None:
        self.syncs = 0
        self.pending = False
        self.local = False

    def record(self) -> None:
        if self.pending:
            raise LazyError("two steps in one graph")
        self.pending = True

    def sync(self) -> None:
        self.syncs += 1
        self.pending = False

    def use_gradients(self) -> None:
        if self.local:
            raise LazyError("gradients are used before they are reduced")


class SyncingLoader:
    """Moves batches and syncs at each `next`, and at the end; knows no sampler."""

    def __init__(self, loader: Iterable[Any], graph: Graph, move: Callable[[Any], Any]) -> None:
        self._loader: Any = loader
        self._graph = graph
        self._move = move

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            self._graph.sync()
            yield self._move(batch)
        self._graph.sync()


class LazyStrategy(SingleDeviceStrategy):
    """Ties weights again after the move, builds after it, reduces when gradients are finalized."""

    capabilities = Capabilities(
        declared={
            Capability.CLOSURE_OPTIMIZERS: unsupported(
                "each evaluation would need a graph of its own"
            ),
        }
    )

    def __init__(self, **components: Any) -> None:
        super().__init__(**components)
        self.graph = Graph()

    def place(self) -> None:
        module = self.precision_plugin.convert_module(self.module)
        self.first_parameters = list(module.parameters())
        names = {p: n for n, p in module.named_parameters()}
        shared = [(name, names[p]) for name, p in module.named_parameters(remove_duplicate=False)]
        for owner in module.modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                setattr(owner, name, nn.Parameter(parameter.detach().clone()))
        for name, first in shared:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, module.get_parameter(first))

    def build(self, build: Build) -> None:
        super().build(build)
        here = set(self.module.parameters())
        if not all(p in here for o in self.optimizers for g in o.param_groups for p in g["params"]):
            raise LazyError("the optimizer holds parameters of before the move")

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        return SyncingLoader(loader, self.graph, super().batch_to_device)

    def batch_to_device(self, batch: Any) -> Any:
        return batch

    def grad_off(self) -> AbstractContextManager[Any]:
        return torch.no_grad()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.graph.record()
        return super().training_step(batch, batch_idx)

    def evaluation_step(self, name: str, batch: Any, batch_idx: int) -> Any:
        self.graph.record()
        return super().evaluation_step(name, batch, batch_idx)

    def run_backward(self, loss: torch.Tensor) -> None:
        super().run_backward(loss)
        self.graph.local = True

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        self.graph.local = False

    def clip_gradients(self, optimizer: Optimizer, clip: Clip) -> None:
        self.graph.use_gradients()
        super().clip_gradients(optimizer, clip)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        def checked() -> Any:
            result = closure()
            self.graph.use_gradients()
            return result

        return super().optimizer_step(optimizer, checked)
