"""Bagua's algorithms, as the user asks for them: a frozen dataclass for each, with the options that it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torchrelay.errors import ConfigurationError
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Plan
from torchrelay_bagua.plugin import CAPABILITIES


@dataclass(frozen=True)
class Algorithm:
    """What is communicated, and when. The options have the vendor's names and defaults."""

    name: ClassVar[str]
    averages_weights: ClassVar[bool] = False
    """Whether ranks take steps of their own and weights are averaged, so that ranks differ in between."""

    def __post_init__(self) -> None:
        for option, known in {"peer_selection_mode": self._peers}.items():
            value = getattr(self, option, known[0])
            if value not in known:
                raise ConfigurationError(
                    f"{option}={value!r} of {self.name!r} must be one of {', '.join(map(repr, known))}"
                )
        for option, least in (
            ("communication_interval", 1),
            ("sync_interval_ms", 1),
            ("warmup_steps", 0),
        ):
            value = getattr(self, option, least)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"{option}={value!r} of {self.name!r} must be a whole number from {least} on"
                )

    _peers: ClassVar[tuple[str, ...]] = ("all",)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return CAPABILITIES[self.name]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the vendor's class."""
        return asdict(self)

    def refusals(self, plan: Plan, world_size: int, num_nodes: int) -> list[str]:
        """Why it cannot do a run.

        Args:
            plan: how gradients are to become updates.
            world_size: number of processes.
            num_nodes: number of machines.
        """
        interval = getattr(self, "communication_interval", 1)
        if interval > 1 and plan.accumulate > 1:
            return [
                f"communication_interval={interval} counts micro-batches, and with accumulate_grad_batches="
                f"{plan.accumulate} an average may fall on none that ends a window, so that ranks would part; leave "
                "one of them out"
            ]
        return []


@dataclass(frozen=True)
class GradientAllreduce(Algorithm):
    """Gradients are averaged exactly.

    Attributes:
        hierarchical: within each machine first, then between machines.
        average: divide by the number of ranks; otherwise gradients are summed.
    """

    name: ClassVar[str] = "gradient_allreduce"

    hierarchical: bool = False
    average: bool = True


@dataclass(frozen=True)
class Bytegrad(Algorithm):
    """Gradients are averaged in 8 bits between the least and the greatest of a bucket.

    Attributes:
        hierarchical: within each machine exactly first, then between machines in 8 bits.
        average: divide by the number of ranks; otherwise gradients are summed.
    """

    name: ClassVar[str] = "bytegrad"

    hierarchical: bool = True
    average: bool = True


@dataclass(frozen=True)
class Decentralized(Algorithm):
    """Weights are averaged while each rank computes gradients of its own, and the step is taken from the average.

    Attributes:
        hierarchical: machines average with each other, after their own ranks have.
        peer_selection_mode: "all" averages all; "shift_one" pairs, other ones each time.
        communication_interval: steps from one average to the next.
    """

    name: ClassVar[str] = "decentralized"
    averages_weights: ClassVar[bool] = True
    _peers: ClassVar[tuple[str, ...]] = ("all", "shift_one")

    hierarchical: bool = True
    peer_selection_mode: str = "all"
    communication_interval: int = 1

    def refusals(self, plan: Plan, world_size: int, num_nodes: int) -> list[str]:
        """No pairs of an odd number."""
        reasons = super().refusals(plan, world_size, num_nodes)
        peers, what = (num_nodes, "machines") if self.hierarchical else (world_size, "processes")
        if self.peer_selection_mode == "shift_one" and peers % 2:
            reasons.append(
                f"peer_selection_mode='shift_one' pairs {what}, and there are {peers}: take an even number, 'all'"
                + (", or hierarchical=False, which pairs processes" if self.hierarchical else "")
            )
        return reasons


@dataclass(frozen=True)
class LowPrecisionDecentralized(Algorithm):
    """After each step, differences of weights are exchanged with the two neighbors in a ring, in 8 bits.

    Attributes:
        hierarchical: machines are the ring, after their own ranks have averaged.
        communication_interval: steps from one exchange to the next.
    """

    name: ClassVar[str] = "low_precision_decentralized"
    averages_weights: ClassVar[bool] = True

    hierarchical: bool = True
    communication_interval: int = 1


@dataclass(frozen=True)
class AsyncAverage(Algorithm):
    """Weights are averaged in the background while each rank trains.

    Attributes:
        peer_selection_mode: "all".
        sync_interval_ms: milliseconds from one average to the next.
        warmup_steps: steps before it begins, in which gradients are averaged.
    """

    name: ClassVar[str] = "async"
    averages_weights: ClassVar[bool] = True

    peer_selection_mode: str = "all"
    sync_interval_ms: int = 500
    warmup_steps: int = 0


@dataclass(frozen=True)
class QAdam(Algorithm):
    """Adam whose gradients are averaged during a warm-up, and afterwards its momentum, in 8 bits.

    Attributes:
        hierarchical: within each machine exactly first, then between machines in 8 bits.
    """

    name: ClassVar[str] = "qadam"

    hierarchical: bool = True


ALGORITHMS: dict[str, type[Algorithm]] = {
    kind.name: kind
    for kind in (
        GradientAllreduce,
        Bytegrad,
        Decentralized,
        LowPrecisionDecentralized,
        AsyncAverage,
        QAdam,
    )
}


def algorithm_of(given: str | Algorithm) -> Algorithm:
    """The algorithm that the user means: one that was made, or a name of Bagua's for one with its defaults.

    Raises:
        ConfigurationError: there is no such algorithm.
    """
    if isinstance(given, Algorithm):
        return given
    if given not in ALGORITHMS:
        made = ", ".join(kind.__name__ for kind in ALGORITHMS.values())
        raise ConfigurationError(
            f"algorithm={given!r} must be one of {', '.join(map(repr, ALGORITHMS))}, or one made with options, of "
            f"torchrelay_bagua: {made}"
        )
    return ALGORITHMS[given]()
