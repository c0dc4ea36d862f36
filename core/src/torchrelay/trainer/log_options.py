"""The arguments of `self.log`: what was asked for, and what that means where it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from torchrelay.errors import ConfigurationError

Reduction = Literal["mean", "sum", "min", "max"]

_LOADER = "/dataloader_idx_"

_REDUCTIONS: dict[Any, Reduction] = {
    "mean": "mean",
    "avg": "mean",
    "sum": "sum",
    "min": "min",
    "max": "max",
    torch.mean: "mean",
    torch.sum: "sum",
    torch.min: "min",
    torch.max: "max",
    sum: "sum",
    min: "min",
    max: "max",
}


class Asked(NamedTuple):
    """The arguments of `LightningModule.log` that decide how a metric is kept, as the user gave them."""

    prog_bar: bool = False
    logger: bool | None = None
    on_step: bool | None = None
    on_epoch: bool | None = None
    reduce_fx: str | Callable[..., Any] = "mean"
    enable_graph: bool = False
    sync_dist: bool = False
    sync_dist_group: Any = None
    add_dataloader_idx: bool = True
    metric_attribute: str | None = None
    rank_zero_only: bool = False


class Options(NamedTuple):
    """How one metric is kept; the same on every rank, to which it may be sent."""

    name: str
    prog_bar: bool
    logger: bool
    on_step: bool
    on_epoch: bool
    reduce: Reduction
    sync_dist: bool
    enable_graph: bool
    attribute: str | None
    suffix: str

    @property
    def plain_name(self) -> str:
        """Name under which callbacks find the newest value."""
        return self.name + self.suffix

    @property
    def step_name(self) -> str:
        """Name under which a step's value goes."""
        return f"{self.name}_step{self.suffix}" if self.on_epoch else self.plain_name

    @property
    def epoch_name(self) -> str:
        """Name under which the epoch's value goes."""
        return f"{self.name}_epoch{self.suffix}" if self.on_step else self.plain_name


class Place(NamedTuple):
    """Where something is logged: within a batch or outside of any, and of which of several data loaders."""

    in_step: bool
    dataloader_idx: int | None


class Key(NamedTuple):
    """What tells one metric from another."""

    place: Place
    name: str


def resolve(name: str, asked: Asked, place: Place, *, training: bool) -> Options:
    """What the arguments mean at a place.

    Raises:
        ConfigurationError: they contradict each other, or cannot be had there.
    """
    _check_name(name, asked)
    _check_ranks(name, asked)
    by_step = training and place.in_step
    step = by_step if asked.on_step is None else asked.on_step
    epoch = not by_step if asked.on_epoch is None else asked.on_epoch
    _check_levels(name, step, epoch, place)
    numbered = asked.add_dataloader_idx and place.dataloader_idx is not None
    return Options(
        name=name,
        prog_bar=asked.prog_bar,
        logger=asked.logger is not False,
        on_step=step,
        on_epoch=epoch,
        reduce=reduction(name, asked.reduce_fx),
        sync_dist=asked.sync_dist,
        enable_graph=asked.enable_graph,
        attribute=asked.metric_attribute,
        suffix=f"{_LOADER}{place.dataloader_idx}" if numbered else "",
    )


def reduction(name: str, reduce_fx: Any) -> Reduction:
    """The name of a way to combine values.

    Raises:
        ConfigurationError: it is none of those that need no more than a running value.
    """
    key = reduce_fx.lower() if isinstance(reduce_fx, str) else reduce_fx
    try:
        return _REDUCTIONS[key]
    except (KeyError, TypeError):  # what cannot be hashed is not in there either
        raise ConfigurationError(
            f"log({name!r}, reduce_fx={reduce_fx!r}): must be one of 'mean', 'sum', 'min', 'max', or torch's function "
            "of that name; another would need every value of the epoch kept: log an object with compute() and reset() "
            "that does so, such as a torchmetrics.Metric"
        ) from None


def refuse_change(name: str, before: Asked, now: Asked) -> ConfigurationError:
    """The error for a metric that is logged anew with other arguments."""
    changed = [
        f"{field}={old!r} and then {field}={new!r}"
        for field, old, new in zip(Asked._fields, before, now, strict=True)
        if old != new
    ]
    return ConfigurationError(
        f"log({name!r}, ...) was called with {', '.join(changed)}; give every call of a name the same arguments, or "
        "use another name"
    )


def _check_name(name: str, asked: Asked) -> None:
    if not isinstance(name, str):
        raise ConfigurationError(
            f"log({name!r}, ...): the name of a metric is a str, not {type(name).__name__}"
        )
    if asked.add_dataloader_idx and _LOADER in name:
        raise ConfigurationError(
            f"log({name!r}, ...): {_LOADER!r} and the number are added for you; leave them out of the name, or give "
            "add_dataloader_idx=False"
        )


def _check_levels(name: str, step: bool, epoch: bool, place: Place) -> None:
    if not step and not epoch:
        raise ConfigurationError(
            f"log({name!r}, on_step=False, on_epoch=False) would keep nothing; let one of them be True (here, on_step "
            "and on_epoch that are not given count by their defaults)"
        )
    if not place.in_step and (step or not epoch):
        given = "on_step=True" if step else "on_epoch=False"
        raise ConfigurationError(
            f"log({name!r}, {given}): no batch is at work here, so the value can only count for the epoch; leave "
            f"{given} out, or log in a step or a hook of a batch"
        )


def _check_ranks(name: str, asked: Asked) -> None:
    if asked.rank_zero_only and asked.sync_dist:
        raise ConfigurationError(
            f"log({name!r}, rank_zero_only=True, sync_dist=True): all ranks must take part in combining a metric, and "
            "only rank 0 would; leave one of the two out"
        )
    group = asked.sync_dist_group
    if group is not None and not _is_world(group):
        raise ConfigurationError(
            f"log({name!r}, sync_dist_group=...): sync_dist combines over all ranks of the run; leave the group out, "
            "or combine within it yourself (torch.distributed.all_reduce) and log the result"
        )


def _is_world(group: Any) -> bool:
    return torch.distributed.is_available() and group is torch.distributed.group.WORLD
