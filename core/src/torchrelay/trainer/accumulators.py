"""Running values: an epoch's mean, sum, minimum or maximum, in constant memory and without waiting for a device.

Numbers are added up in Python's 64 bits. Tensors of an accelerator are added up on it, one operation each.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch

from torchrelay.trainer.log_options import Reduction

Part = tuple[float, float]
"""A rank's value and its weight."""


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in 64 bits, or in 32 on devices that have no more."""
    has_double = tensor.device.type in ("cpu", "cuda")
    return tensor.to(torch.float64 if has_double else torch.float32)


class Accumulator(ABC):
    """What is known of an epoch's values so far."""

    weight: float = 0

    @abstractmethod
    def add(self, value: float, weight: float) -> None:
        """Take in a number."""

    @abstractmethod
    def add_tensor(self, value: torch.Tensor, weight: float) -> None:
        """Take in a 0-dim tensor; its gradient is kept."""

    @abstractmethod
    def result(self) -> torch.Tensor:
        """The value so far (0-dim, on the device of the tensors, if there were any)."""

    @staticmethod
    @abstractmethod
    def over_ranks(parts: Iterable[Part]) -> float:
        """The value of several ranks' parts."""


class Sum(Accumulator):
    """A sum."""

    def __init__(self) -> None:
        self.total: float = 0.0
        self.on_device: torch.Tensor | None = None

    def add(self, value: float, weight: float) -> None:
        """Take in a number."""
        self.total += value

    def add_tensor(self, value: torch.Tensor, weight: float) -> None:
        """Take in a 0-dim tensor."""
        self._add(value, 1)

    def result(self) -> torch.Tensor:
        """The sum so far."""
        if self.on_device is None:
            return torch.tensor(self.total, dtype=torch.float64)
        return self.on_device + self.total

    @staticmethod
    def over_ranks(parts: Iterable[Part]) -> float:
        """The sum of several ranks' parts."""
        return sum(value for value, _ in parts)

    def _add(self, value: torch.Tensor, weight: float) -> None:
        if self.on_device is None:
            self.on_device = wide(value) * weight
        else:
            self.on_device = torch.add(self.on_device, value, alpha=weight)


class Mean(Sum):
    """A mean, weighted."""

    def add(self, value: float, weight: float) -> None:
        """Take in a number."""
        self.total += value * weight
        self.weight += weight

    def add_tensor(self, value: torch.Tensor, weight: float) -> None:
        """Take in a 0-dim tensor."""
        self._add(value, weight)
        self.weight += weight

    def result(self) -> torch.Tensor:
        """The mean so far; NaN of no weight at all."""
        return super().result() / self.weight

    @staticmethod
    def over_ranks(parts: Iterable[Part]) -> float:
        """The mean over several ranks' parts."""
        weighed = [(value * weight, weight) for value, weight in parts if weight]
        total = sum(weight for _, weight in weighed)
        return sum(value for value, _ in weighed) / total if total else math.nan


class Extreme(Accumulator):
    """A minimum or a maximum; NaN, once seen, stays."""

    sign: int
    pick: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __init__(self) -> None:
        self.value = self.sign * math.inf
        self.on_device: torch.Tensor | None = None

    def add(self, value: float, weight: float) -> None:
        """Take in a number."""
        # only NaN differs from itself
        if value * self.sign < self.value * self.sign or value != value:
            self.value = value

    def add_tensor(self, value: torch.Tensor, weight: float) -> None:
        """Take in a 0-dim tensor."""
        value = wide(value)
        self.on_device = value if self.on_device is None else type(self).pick(self.on_device, value)

    def result(self) -> torch.Tensor:
        """The extreme so far."""
        if self.on_device is None:
            return torch.tensor(self.value, dtype=torch.float64)
        return type(self).pick(self.on_device, torch.full_like(self.on_device, self.value))

    @classmethod
    def over_ranks(cls, parts: Iterable[Part]) -> float:
        """The extreme of several ranks' parts."""
        every = cls()
        for value, weight in parts:
            every.add(value, weight)
        return every.value


class Min(Extreme):
    """A minimum."""

    sign = 1
    pick = staticmethod(torch.minimum)


class Max(Extreme):
    """A maximum."""

    sign = -1
    pick = staticmethod(torch.maximum)


ACCUMULATORS: dict[Reduction, type[Accumulator]] = {
    "mean": Mean,
    "sum": Sum,
    "min": Min,
    "max": Max,
}
