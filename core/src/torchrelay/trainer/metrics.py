"""What `self.log` records, cheaply, and what becomes of it at the end of a step and of an epoch.

Recording keeps references to detached tensors and computes nothing. Values are combined when an epoch ends, and
reduced over ranks, where `sync_dist` asks for it, when loggers are about to receive them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch

from torchrelay.collectives.collectives import Collectives
from torchrelay.errors import ConfigurationError

_COLLAPSE_AT = 1024

Reduction = Literal["mean", "sum", "min", "max"]


class Options(NamedTuple):
    """The options of one metric; they may not change within an epoch."""

    prog_bar: bool
    logger: bool
    on_step: bool
    on_epoch: bool
    reduce: Reduction
    sync_dist: bool


class Entry:
    """One metric: the latest value, and the values of the epoch with their weights."""

    __slots__ = ("last", "name", "options", "values", "weights")

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        self.last: Any = None
        self.values: list[Any] = []
        self.weights: list[float] = []

    def update(self, value: Any, weight: float) -> None:
        """Keep a value for the epoch."""
        self.values.append(value)
        self.weights.append(weight)
        if len(self.values) >= _COLLAPSE_AT:
            total, weight = self.combine()
            self.values, self.weights = [total], [weight]

    def combine(self) -> tuple[torch.Tensor, float]:
        """The epoch's value on this rank (0-dim, float64), and its weight."""
        values = torch.stack([_wide(value) for value in self.values])
        weights = torch.tensor(self.weights, dtype=values.dtype, device=values.device)
        weight = float(sum(self.weights))
        if self.options.reduce == "mean":
            return torch.dot(values, weights) / weight, weight
        reduced: torch.Tensor = getattr(values, self.options.reduce)()
        return reduced, weight

    @property
    def step_name(self) -> str:
        """Name under which a step's value goes."""
        return f"{self.name}_step" if self.options.on_epoch else self.name

    @property
    def epoch_name(self) -> str:
        """Name under which the epoch's value goes."""
        return f"{self.name}_epoch" if self.options.on_step else self.name


class Shares(NamedTuple):
    """One metric of an epoch: each rank's value and weight."""

    options: Options
    values: list[tuple[float, float]]

    def combine(self) -> torch.Tensor:
        """The metric over all ranks (0-dim, float64)."""
        values = torch.tensor([value for value, _ in self.values], dtype=torch.float64)
        if self.options.reduce != "mean":
            reduced: torch.Tensor = getattr(values, self.options.reduce)()
            return reduced
        weights = torch.tensor([weight for _, weight in self.values], dtype=torch.float64)
        return torch.dot(values, weights) / weights.sum()


class Metrics:
    """The metrics of one stage.

    Args:
        stage: "train", "validate", "test" or "predict"; decides the defaults of `on_step` and `on_epoch`.
        collectives: what reduces over ranks; not used before a run is set up.
    """

    def __init__(self, stage: str, collectives: Callable[[], Collectives]) -> None:
        self.training = stage == "train"
        self.in_step = False
        self.batch: Any = None
        self._collectives = collectives
        self._entries: dict[str, Entry] = {}
        self._epoch_values: dict[str, tuple[Options, torch.Tensor]] = {}

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool = True,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        sync_dist: bool = False,
        batch_size: int | None = None,
    ) -> None:
        """Record a value; see `LightningModule.log`."""
        entry = self._entries.get(name)
        if entry is None:
            step = (self.training and self.in_step) if on_step is None else on_step
            epoch = not (self.training and self.in_step) if on_epoch is None else on_epoch
            options = Options(prog_bar, logger, step, epoch, _reduction(name, reduce_fx), sync_dist)
            entry = self._entries[name] = Entry(name, options)
        entry.last = value = _scalar(name, value)
        if entry.options.on_epoch:
            entry.update(value, batch_size or (_batch_size(self.batch) if self.in_step else 1))

    def step_values(self, *, for_logger: bool = False, reduce: bool = False) -> dict[str, Any]:
        """The latest values of metrics that are kept by step.

        Args:
            for_logger: leave out those logged with `logger=False`.
            reduce: combine those with `sync_dist` over ranks first. Collective.
        """
        entries = [e for e in self._entries.values() if e.options.on_step]
        if reduce:
            self._reduce_last([e for e in entries if e.options.sync_dist])
        return {e.step_name: e.last for e in entries if e.options.logger or not for_logger}

    def close_epoch(self) -> None:
        """Combine the epoch's values, over ranks where asked for, and begin anew. Collective.

        A rank that had no batch, or did not log a metric, takes part all the same and learns of it.
        """
        here = [e for e in self._entries.values() if e.options.on_epoch and e.values]
        shared: dict[str, Shares] = {}
        for entry in here:
            value, weight = entry.combine()
            if entry.options.sync_dist:
                shared[entry.name] = Shares(entry.options, [(float(value), weight)])
            else:
                self._epoch_values[entry.name] = (entry.options, value)
            entry.values, entry.weights = [], []
        for name, shares in self._union(shared).items():
            self._entries.setdefault(name, Entry(name, shares.options))
            self._epoch_values[name] = (shares.options, shares.combine())

    def _union(self, shared: dict[str, Shares]) -> dict[str, Shares]:
        """The shares of all ranks; one exchange for all metrics, whichever a rank has."""
        collectives = self._collectives()
        if collectives.world_size == 1:
            return shared
        union: dict[str, Shares] = {}
        for theirs in collectives.gather_objects(shared):
            for name, share in theirs.items():
                union.setdefault(name, Shares(share.options, [])).values.extend(share.values)
        return union

    def epoch_values(self, *, for_logger: bool = False) -> dict[str, torch.Tensor]:
        """The combined values of the latest epoch that logged them."""
        return {
            self._entries[name].epoch_name: value
            for name, (options, value) in self._epoch_values.items()
            if options.logger or not for_logger
        }

    def values(self) -> dict[str, torch.Tensor]:
        """Everything a callback may watch: latest steps, latest epochs, and both under the plain name."""
        found = {e.name: e.last for e in self._entries.values() if e.last is not None}
        found |= self.step_values()
        found |= {name: value for name, (_, value) in self._epoch_values.items()}
        found |= self.epoch_values()
        return {name: torch.as_tensor(value) for name, value in found.items()}

    def progress_bar_values(self) -> dict[str, Any]:
        """What was logged with `prog_bar=True`: the epoch's value if there is one, else the latest."""
        found = {
            e.name: e.last
            for e in self._entries.values()
            if e.options.prog_bar and e.options.on_step
        }
        shown = {n: v for n, (options, v) in self._epoch_values.items() if options.prog_bar}
        return {**shown, **found} if self.training else {**found, **shown}

    def _reduce_last(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.last = self._collectives().reduce(entry.last, entry.options.reduce)


def _reduction(name: str, reduce_fx: Any) -> Reduction:
    spelled: Any = getattr(reduce_fx, "__name__", reduce_fx)
    if spelled not in get_args(Reduction):
        raise ConfigurationError(
            f"log({name!r}, reduce_fx={reduce_fx!r}): must be one of {', '.join(map(repr, get_args(Reduction)))}"
        )
    reduction: Reduction = spelled
    return reduction


def _wide(value: Any) -> torch.Tensor:
    """The value in float64, or in float32 where the device has no more."""
    tensor = torch.as_tensor(value)
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _scalar(name: str, value: Any) -> torch.Tensor | float | int | bool:
    if isinstance(value, torch.Tensor):
        if not value.dim():
            return value.detach()
        if value.numel() != 1:
            raise ConfigurationError(
                f"log({name!r}, ...): a tensor of shape {tuple(value.shape)} is not a number; log a 0-dim tensor, such "
                "as its mean()"
            )
        return value.detach().reshape(())
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"log({name!r}, ...): a {type(value).__name__} is not a number; log a number or a 0-dim tensor"
        ) from None


def _batch_size(batch: Any) -> int:
    """Length of the first dimension of the first tensor in a batch; 1 if there is none."""
    if isinstance(batch, torch.Tensor):
        return batch.size(0) if batch.dim() else 1
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next((_batch_size(item) for item in batch if not isinstance(item, str)), 1)
    return 1
