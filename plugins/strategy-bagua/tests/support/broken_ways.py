"""Ways in which the strategy can be broken that show between processes alone; `scripts/ranks.py` takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchrelay.strategies import ParallelStrategy, Strategy
from torchrelay_bagua import collectives, strategy, vendor
from torchrelay_bagua.collectives import BaguaCollectives
from torchrelay_bagua.strategy import BaguaStrategy


def _nothing(*args: Any, **options: Any) -> None:
    return None


def device_after_meeting() -> None:
    def setup(self: Any) -> None:
        self.collectives.connect(self.cluster_environment, self.root_device)
        self.accelerator.setup_device(self.root_device)

    BaguaStrategy.setup_environment = setup  # type: ignore[method-assign]


def meets_each_time() -> None:
    vendor.is_started = lambda: False


def no_ranks_told() -> None:
    BaguaCollectives._variables = lambda self, environment: {}  # type: ignore[method-assign]


def environment_left() -> None:
    vendor.restore = _nothing


def not_wrapped() -> None:
    BaguaStrategy.wrap = _nothing  # type: ignore[method-assign]


def through_the_bare_module() -> None:
    BaguaStrategy.raw_step = Strategy.raw_step  # type: ignore[method-assign]


def no_rest_shared() -> None:
    BaguaStrategy._share_the_rest = _nothing  # type: ignore[method-assign]


def evaluates_with_own_buffers() -> None:
    strategy.share_buffers = _nothing


def manual_not_averaged() -> None:
    BaguaStrategy.reduce_gradients = Strategy.reduce_gradients  # type: ignore[method-assign]


def checkpoint_of_one_rank() -> None:
    BaguaStrategy.model_state = ParallelStrategy.model_state  # type: ignore[method-assign]


def ends_without_average() -> None:
    strategy.average_weights = _nothing


def never_resumed() -> None:
    vendor.resume = _nothing


def sums_for_means() -> None:
    collectives.NATIVE = {**collectives.NATIVE, "mean": "SUM"}


def averages_of_integers() -> None:
    collectives._is_averaged = lambda buffer: True


def sends_what_bagua_does_not() -> None:
    import torch

    vendor.TYPES = frozenset({*vendor.TYPES, torch.float64})


def bits_by_bagua() -> None:
    BaguaCollectives._bits = lambda self, leaves, tensors, op: [  # type: ignore[method-assign]
        vendor.reduce_in_place(each, op.upper()) or each for each in tensors
    ]


def options_left_out() -> None:
    arguments: Any = BaguaStrategy._arguments.fget  # type: ignore[attr-defined]

    def wrong(self: Any) -> dict[str, Any]:
        return {name: value for name, value in arguments(self).items() if name != "hierarchical"}

    BaguaStrategy._arguments = property(wrong)  # type: ignore[assignment]


def sums_left_out() -> None:
    arguments: Any = BaguaStrategy._arguments.fget  # type: ignore[attr-defined]

    def wrong(self: Any) -> dict[str, Any]:
        return {name: value for name, value in arguments(self).items() if name != "average"}

    BaguaStrategy._arguments = property(wrong)  # type: ignore[assignment]


WAYS: dict[str, Callable[[], None]] = {
    name: value
    for name, value in list(globals().items())
    if getattr(value, "__module__", "") == __name__ and not name.startswith("_")
}
