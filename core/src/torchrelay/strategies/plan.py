"""What the driver asks a strategy to do, and what of it the strategy leaves to the driver's loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torchrelay.errors import ConfigurationError
from torchrelay.plugin.specs import Capability

ClipAlgorithm = Literal["norm", "value"]


@dataclass(frozen=True)
class Clip:
    """Gradient clipping: the limit, and whether it is on the norm of all gradients or on each element."""

    value: float
    algorithm: ClipAlgorithm = "norm"


@dataclass(frozen=True)
class Plan:
    """How gradients become updates.

    The driver hands `Strategy.negotiate` the plan that the user asked for; what comes back is left to the
    driver's loop, the strategy does the rest by itself.

    Attributes:
        accumulate: micro-batches a window.
        loss_divisor: what each micro-batch's loss is divided by.
        clip: clipping to apply before each update; None for none.
        updates: weight updates that one `optimizer_step` makes; `global_step` and `max_steps` count these.
    """

    accumulate: int = 1
    loss_divisor: int = 1
    clip: Clip | None = None
    updates: int = 1

    def combines(self, asked: Plan) -> int:
        """How many of the user's batches one batch of the loop holds, when this is what is left of `asked`.

        Raises:
            ConfigurationError: the strategy's answer does not add up.
        """
        together, rest = divmod(asked.accumulate * self.updates, self.accumulate)
        if rest or not together:
            raise ConfigurationError(
                f"negotiate({asked}) left {self}: {self.updates} updates of {asked.accumulate} batches each cannot be "
                f"made of {self.accumulate} batches of the loop; tell the strategy's authors"
            )
        return together


@dataclass(frozen=True)
class Needs:
    """What a run needs of its strategy, as far as it is known before any process starts.

    Attributes:
        capabilities: capability -> where the need comes from, in the user's words.
        precision: canonical name of the precision.
        num_nodes: number of machines.
        plan: how gradients are to become updates, as the user asked for it.
    """

    capabilities: dict[Capability, str] = field(default_factory=dict)
    precision: str = "32-true"
    num_nodes: int = 1
    plan: Plan = field(default_factory=Plan)
