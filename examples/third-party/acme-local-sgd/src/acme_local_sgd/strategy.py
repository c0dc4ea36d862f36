"""LocalSGDStrategy: each process trains by itself, and the weights are averaged every few updates.

After S. U. Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019. Gradients are never averaged, so N
processes do not equal one process on the whole batch; with `period=1` and plain SGD they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from acme_local_sgd.averaging import Tensors, mean_of_ranks, mean_of_states
from acme_local_sgd.plugin import CAPABILITIES
from torchrelay.errors import ConfigurationError
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Build, ProcessGroupStrategy

OWN = "local_sgd"
"""Where an optimizer's state in a checkpoint has what each rank had for itself."""


class LocalSGDStrategy(ProcessGroupStrategy):
    """Each process trains by itself; the weights are averaged every few updates.

    Between two averagings the ranks' weights differ. Evaluation, checkpoints and the fitted module have their mean; a
    checkpoint also has each rank's own weights and optimizer state, from which as many ranks go on exactly.

    Args:
        period: updates of an optimizer between two averagings of its parameters.
        components: see `ProcessGroupStrategy`: `start_method` and the like.

    Raises:
        ConfigurationError: a period below 1.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def __init__(self, *, period: int = 8, **components: Any) -> None:
        super().__init__(**components)
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ConfigurationError(f"period={period!r} must be a number of updates from 1")
        self.period = period
        self._since: list[int] = []

    # --- model ------------------------------------------------------------------------------------------

    def place(self) -> None:
        """Move the module, and let every rank begin with rank 0's weights."""
        super().place()
        self._take(self.collectives.broadcast(self._weights()))

    def build(self, build: Build) -> None:
        """Build the optimizers, and count their updates."""
        super().build(build)
        self._since = [0] * len(self.optimizers)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Evaluate the mean of the weights; after training, keep it."""
        with super().stage(name):
            if not self.optimizers:
                yield
            elif name == "train":
                yield
                # An exception does not come here: nobody would meet this rank.
                self._take(mean_of_ranks(self.collectives, self._weights()))
            else:
                own = {name: tensor.clone() for name, tensor in self._weights().items()}
                self._take(mean_of_ranks(self.collectives, own))
                try:
                    yield
                finally:
                    self._take(own)

    # --- steps ------------------------------------------------------------------------------------------

    def optimizer_step(self, optimizer: Optimizer, closure: Any) -> Any:
        """Update this rank's weights; average them when the period is over."""
        result = super().optimizer_step(optimizer, closure)
        index = self._index(optimizer)
        self._since[index] += 1
        if self._since[index] == self.period:
            self._since[index] = 0
            self._average(optimizer)
        return result

    def _average(self, optimizer: Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        means = self.collectives.reduce([p.detach() for p in parameters], "mean")
        with torch.no_grad():
            for parameter, mean in zip(parameters, means, strict=True):
                parameter.copy_(mean)

    def _index(self, optimizer: Optimizer) -> int:
        return next(i for i, each in enumerate(self.optimizers) if each is optimizer)

    # --- state ------------------------------------------------------------------------------------------

    def model_state(self) -> dict[str, Any]:
        """The mean of the ranks' weights. Collective."""
        state = super().model_state()
        if not self.optimizers:
            return state
        return {**state, **mean_of_ranks(self.collectives, self._weights())}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The mean of the ranks' states, which any strategy can go on with; beside it, each rank's own. Collective."""
        own = {"optimizer": super().optimizer_state(optimizer), "weights": {}}
        index = self._index(optimizer)
        if index == 0:
            own["weights"] = self._weights()
        ranks = self.collectives.gather_objects(own)
        mean = mean_of_states([each["optimizer"] for each in ranks])
        return {**mean, OWN: {"since": self._since[index], "ranks": ranks}}

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Go on as this rank was; from the mean, and a new period, where the number of ranks is another."""
        local = state.get(OWN)
        index = self._index(optimizer)
        if local is None or len(local["ranks"]) != self.world_size:
            self._since[index] = 0
            super().load_optimizer_state(
                optimizer, {name: part for name, part in state.items() if name != OWN}
            )
            return
        mine = local["ranks"][self.global_rank]
        self._since[index] = local["since"]
        self._take(mine["weights"])
        super().load_optimizer_state(optimizer, mine["optimizer"])

    def _weights(self) -> Tensors:
        """This rank's parameters and buffers."""
        state = self.module.state_dict()
        return {
            name: each.detach() for name, each in state.items() if isinstance(each, torch.Tensor)
        }

    def _take(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Make these this rank's parameters and buffers."""
        own = self._weights()
        with torch.no_grad():
            for name, tensor in weights.items():
                own[name].copy_(tensor)
