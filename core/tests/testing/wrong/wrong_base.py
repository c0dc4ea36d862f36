"""A right strategy of several processes, for the wrong ones beside it to be wrong in one thing each."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.collectives import Collectives, TorchCollectives
from torchrelay.environments import LocalEnvironment
from torchrelay.launchers import Launcher, ScriptLauncher
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import ParallelStrategy


class PairStrategy(ParallelStrategy):
    """Each process has the whole model; gradients are averaged before the update, weights begin as rank 0's."""

    capabilities = Capabilities(
        declared={
            Capability.CLOSURE_OPTIMIZERS: unsupported("each rank would judge its own loss"),
            Capability.SKIPPED_STEPS: unsupported("ranks that skip leave the others waiting"),
            Capability.SYNC_BATCHNORM: unsupported("torch has none on the CPU"),
        }
    )

    def default_collectives(self) -> Collectives:
        return TorchCollectives(backend="gloo")

    def default_launcher(self) -> Launcher | None:
        environment = self.cluster_environment
        if isinstance(environment, LocalEnvironment):
            return ScriptLauncher(environment, self.processes_per_node)
        return None

    @torch.no_grad()
    def place(self) -> None:
        super().place()
        self.share()

    @torch.no_grad()
    def share(self) -> None:
        """Give every rank rank 0's weights and buffers."""
        state: dict[str, Any] = self.module.state_dict()
        for name, value in self.collectives.broadcast(dict(state)).items():
            state[name].copy_(value)

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    self.average(parameter)

    def average(self, parameter: torch.Tensor) -> None:
        """Average a parameter's gradient; one that no rank used has none."""
        used = self.collectives.any(parameter.grad is not None)
        if used:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.collectives.reduce(own, "mean")

    def stage(self, name: str) -> Any:
        if name != "train":
            self.share()
        return super().stage(name)
