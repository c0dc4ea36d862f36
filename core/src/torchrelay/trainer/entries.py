"""One metric of a stage: a number that is combined over the epoch, or an object that combines by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from torchrelay.errors import ConfigurationError
from torchrelay.trainer.accumulators import ACCUMULATORS, Accumulator
from torchrelay.trainer.log_options import Asked, Options

_LAST_BATCH = "_forward_cache"
"""Where torchmetrics keeps what `forward` returned for the last batch."""


class Share(NamedTuple):
    """What a rank tells the others of a metric; an object has neither value nor weight."""

    options: Options
    is_object: bool
    value: float
    weight: float


class Entry(ABC):
    """One metric.

    Attributes:
        asked: the arguments of the first call; None where only other ranks have logged it.
        last: the newest value, if such are kept.
        pending: whether something was logged that the epoch's value does not know yet.
        weighted: whether the size of a batch matters.
        shared: whether all ranks combine it.
    """

    __slots__ = ("asked", "last", "options", "pending", "shared", "weighted")

    def __init__(self, options: Options, asked: Asked | None) -> None:
        self.options = options
        self.asked = asked
        self.last: Any = None
        self.pending = False
        self.weighted = False
        self.shared = False

    @abstractmethod
    def update(self, value: Any, weight: float) -> None:
        """Take in a value."""

    @abstractmethod
    def share(self) -> Share:
        """What the other ranks must know to combine the metric."""

    @abstractmethod
    def close(self, shares: Sequence[Share]) -> torch.Tensor:
        """The epoch's value, from the shares of those ranks that have logged the metric; collective for an object.

        Args:
            shares: empty where ranks do not combine the metric.
        """

    def forget(self) -> None:
        """Begin anew, for the next epoch."""

    def is_kept_as(self, options: Options) -> bool:
        """Whether options say the same, wherever an object is."""
        return self.options._replace(attribute=options.attribute) == options

    def state_dict(self) -> dict[str, Any]:
        """What is known so far, as tensors and plain data."""
        return {"last": detached(self.last), "pending": self.pending}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on from there, with tensors on a device."""
        self.last, self.pending = placed(state_dict["last"], device), state_dict["pending"]


class Number(Entry):
    """Numbers, combined by an accumulator.

    Args:
        options: how it is kept.
        asked: the arguments of the first call.
        keep_last: keep the newest value even where it is not kept by step.
    """

    __slots__ = ("_accumulator", "_keeps_graph", "_keeps_last", "_kind")

    def __init__(
        self, options: Options, asked: Asked | None = None, *, keep_last: bool = False
    ) -> None:
        super().__init__(options, asked)
        self._kind = ACCUMULATORS[options.reduce]
        self._accumulator: Accumulator | None = self._kind() if options.on_epoch else None
        self._keeps_last = options.on_step or keep_last
        self._keeps_graph = options.enable_graph
        self.weighted = options.on_epoch and options.reduce == "mean"
        self.shared = options.sync_dist

    def update(self, value: Any, weight: float) -> None:
        """Take in a number or a tensor of one element."""
        self.pending = True
        if value.__class__ is not float:
            value = to_number(self.options.name, value, keep_graph=self._keeps_graph)
            if isinstance(value, torch.Tensor):
                self._update_tensor(value, weight)
                return
        if self._keeps_last:
            self.last = value
        if self._accumulator is not None:
            self._accumulator.add(value, weight)

    def _update_tensor(self, value: torch.Tensor, weight: float) -> None:
        if self._keeps_last:
            # The caller may change its tensor in place later on.
            self.last = value if self._keeps_graph else value.clone()
        if self._accumulator is not None:
            self._accumulator.add_tensor(value, weight)

    def share(self) -> Share:
        """This rank's value and weight; waits for the device."""
        accumulator = self._accumulator or self._kind()
        return Share(self.options, False, float(accumulator.result()), accumulator.weight)

    def state_dict(self) -> dict[str, Any]:
        """What is known so far, with the epoch's running value."""
        running = {} if self._accumulator is None else vars(self._accumulator)
        return {**super().state_dict(), "running": {n: detached(v) for n, v in running.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on from there, with tensors on a device."""
        super().load_state_dict(state_dict, device)
        if self._accumulator is not None:
            for name, value in state_dict["running"].items():
                setattr(self._accumulator, name, placed(value, device))

    def close(self, shares: Sequence[Share]) -> torch.Tensor:
        """The epoch's value (0-dim)."""
        accumulator, self._accumulator = self._accumulator or self._kind(), self._kind()
        if not shares:
            return accumulator.result()
        total = self._kind.over_ranks((share.value, share.weight) for share in shares)
        return torch.tensor(total, dtype=torch.float64)


class MetricObject(Entry):
    """An object that collects by itself, as torchmetrics' `Metric`: `compute` gives its value, over all ranks.

    Args:
        options: how it is kept.
        asked: the arguments of the first call.
        target: the object.
    """

    __slots__ = ("_used", "target")

    def __init__(self, options: Options, asked: Asked | None, target: Any) -> None:
        super().__init__(options, asked)
        self.target = target
        self.shared = True
        self._used = False
        if options.on_step and not hasattr(target, _LAST_BATCH):
            raise ConfigurationError(
                f"log({options.name!r}, {type(target).__name__}(...), on_step=True): the object does not keep the "
                "value of its last batch as _forward_cache, so there is none for a step; give on_step=False, "
                "on_epoch=True"
            )

    def update(self, value: Any, weight: float) -> None:
        """Note that the object was logged, and its value of the last batch if that is kept by step."""
        if value is not self.target:
            self._replace(value)
        self.pending = self._used = True
        if self.options.on_step:
            last = getattr(value, _LAST_BATCH)
            self.last = None if last is None else to_number(self.options.name, last)

    def _replace(self, value: Any) -> None:
        if self._used or not is_metric_object(value):
            raise ConfigurationError(
                f"log({self.options.name!r}, ...): another object was logged under this name in the same epoch; give "
                "each of them a name of its own"
            )
        self.target = value

    def share(self) -> Share:
        """That this rank has logged the object."""
        return Share(self.options, True, 0.0, 0.0)

    def close(self, shares: Sequence[Share]) -> torch.Tensor:
        """The object's value (0-dim)."""
        self._used = True
        value = self.target.compute()
        if isinstance(value, dict):
            raise ConfigurationError(
                f"log({self.options.name!r}, {type(self.target).__name__}(...)): compute() returns a dict; log its "
                "items by themselves at the end of the epoch: log_dict(metric.compute()), then metric.reset()"
            )
        number = to_number(self.options.name, value)
        return number.clone() if isinstance(number, torch.Tensor) else as_tensor(number)

    def state_dict(self) -> dict[str, Any]:
        """What is known of it, and whether it was logged; what it has collected is its own."""
        return {**super().state_dict(), "used": self._used}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict, device)
        self._used = state_dict["used"]

    def forget(self) -> None:
        """Reset the object if it was logged."""
        if self._used:
            self.target.reset()
        self._used = False


def is_metric_object(value: Any) -> bool:
    """Whether a value is an object that collects by itself."""
    if isinstance(value, type):
        return False
    return callable(getattr(value, "compute", None)) and callable(getattr(value, "reset", None))


def detached(value: Any) -> Any:
    """A copy of a tensor without its graph; anything else as it is."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def placed(value: Any, device: torch.device) -> Any:
    """A tensor on a device; anything else as it is."""
    return value.to(device) if isinstance(value, torch.Tensor) else value


def as_tensor(value: Any) -> torch.Tensor:
    """A value as a tensor; a float in its 64 bits."""
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    return torch.as_tensor(value)


def to_number(name: str, value: Any, *, keep_graph: bool = False) -> Any:
    """A value as a number; as a detached 0-dim tensor where reading it would have to wait for a device.

    Args:
        name: of the metric, for the error.
        value: a number, or a tensor of one element.
        keep_graph: give a tensor with its graph instead.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise _no_number(
                name, f"a tensor of shape {tuple(value.shape)}", ", such as its mean()"
            )
        if keep_graph or not value.is_cpu:
            return (value if keep_graph else value.detach()).reshape(())
        value = value.item()
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise _no_number(name, f"a {type(value).__name__}") from None


def _no_number(name: str, what: str, more: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"log({name!r}, ...): {what} is not a number; log a number or a 0-dim tensor{more}"
    )
