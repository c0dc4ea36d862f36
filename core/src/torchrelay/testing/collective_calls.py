"""The calls that the checks of collectives judge: the same ones, in the same order, on every rank."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch

from torchrelay.collectives.collectives import Collectives, ReduceOp
from torchrelay.testing.context import Context, in_each_rank

OPERATIONS: tuple[ReduceOp, ...] = get_args(ReduceOp)
FOR_BOOLEANS: tuple[ReduceOp, ...] = ("min", "max", "sum")

LATE = 1.0
"""Seconds by which rank 0 comes late to the barrier."""

MEGABYTES = 10

NOBODY = "nobody"


@dataclass(frozen=True)
class Place:
    """Where a call is made.

    Args:
        talk: the collectives.
        device: of this process.
    """

    talk: Collectives
    device: torch.device

    @property
    def rank(self) -> int:
        """This process among all."""
        return self.talk.rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.talk.world_size


class Pair(NamedTuple):
    """A container of its own kind."""

    first: Any
    second: Any


def floats(rank: int) -> torch.Tensor:
    """A rank's floating-point input."""
    return torch.tensor([[1.5, -2.0, 0.25], [3.0, 4.0, -1.0]]) * (rank + 1)


def integers(rank: int) -> torch.Tensor:
    """A rank's integers, whose sum and product do not fit their format."""
    return torch.tensor([100, 3, -7], dtype=torch.int8) + rank


def booleans(rank: int) -> torch.Tensor:
    """True on every rank, on rank 0 alone, on none."""
    return torch.tensor([True, rank == 0, False])


def nested(rank: int) -> dict[str, Any]:
    """Containers in one another, whose leaves are of several formats."""
    return {
        "list": [floats(rank), integers(rank)],
        "pair": Pair(torch.tensor(rank, dtype=torch.int64), (float(rank), torch.ones(2, 1) * rank)),
    }


def message(rank: int) -> dict[str, Any]:
    """An object of no particular kind."""
    return {"rank": rank, "nested": [None, ("a", {1, 2}), {"t": floats(rank)}], "text": "ü" * 3}


def talk(context: Context) -> None:
    """Make every call, and leave what it returned, or raised."""
    in_each_rank(context, _talk)


def _talk(strategy: Any, context: Context) -> None:
    collectives: Collectives = strategy.collectives
    for name, call in CALLS.items():
        try:
            result = call(Place(collectives, strategy.root_device))
        except Exception as error:  # noqa: BLE001 - it is what the check judges
            result = f"{type(error).__name__}: {error}"
        context.leave(name, collectives.rank, result)


def _each(make: Callable[[int], torch.Tensor]) -> Callable[[Place], Any]:
    def call(at: Place) -> Any:
        value = make(at.rank).to(at.device)
        return {op: at.talk.reduce(value, op) for op in OPERATIONS}

    return call


def _zero_dim(at: Place) -> Any:
    value = torch.tensor(at.rank + 0.5, device=at.device)
    return [
        at.talk.reduce(value, "sum"),
        at.talk.reduce(at.rank, "mean"),
        at.talk.reduce(at.rank + 0.5, "max"),
    ]


def _booleans(at: Place) -> Any:
    value = booleans(at.rank).to(at.device)
    return {op: at.talk.reduce(value, op) for op in FOR_BOOLEANS}


def _untouched(at: Place) -> Any:
    value = floats(at.rank).to(at.device)
    for op in OPERATIONS:
        at.talk.reduce([value], op)
    return value


def _gather(at: Place) -> Any:
    transposed = floats(at.rank).to(at.device).t()
    zero = torch.tensor(at.rank, device=at.device)
    return at.talk.all_gather(
        {"whole": transposed, "zero": zero, "pair": Pair(booleans(at.rank), at.rank)}
    )


def _gradient(at: Place) -> Any:
    value = floats(at.rank).to(at.device).requires_grad_()
    weights = torch.arange(1.0, at.world_size + 1, device=at.device).reshape(-1, 1, 1)
    loss = (at.talk.all_gather(value, sync_grads=True) * weights).sum() * (at.rank + 1)
    loss.backward()
    return value.grad


def _broadcast(at: Place) -> Any:
    last = at.world_size - 1
    mine = message(at.rank)
    return {"first": at.talk.broadcast(mine), "last": at.talk.broadcast(mine, src=last)}


def _ten_megabytes(at: Place) -> Any:
    size = MEGABYTES * 2**20
    got = at.talk.broadcast(bytes([at.rank + 1]) * size if at.rank == 0 else None)
    return [type(got).__name__, len(got), got[:1], got[-1:]]


def _barrier(at: Place) -> Any:
    at.talk.broadcast(None)
    begun = time.monotonic()
    if at.rank == 0:
        time.sleep(LATE)
    at.talk.barrier("kit")
    return time.monotonic() - begun


def _decide(at: Place) -> Any:
    votes = {
        "yes": True,
        "no": False,
        "first": at.rank == 0,
        "last": at.rank == at.world_size - 1,
    }
    return {name: (at.talk.all(vote), at.talk.any(vote)) for name, vote in votes.items()}


def _in_step(at: Place) -> Any:
    if at.rank == at.world_size - 1:
        with suppress(Exception):
            at.talk.reduce(object())
    return [at.talk.reduce(at.rank + 1, "sum"), at.talk.broadcast(at.rank)]


CALLS: dict[str, Callable[[Place], Any]] = {
    "floats": _each(floats),
    "integers": _each(integers),
    "bf16": _each(lambda rank: floats(rank).bfloat16()),
    "zero_dim": _zero_dim,
    "booleans": _booleans,
    "nested": lambda at: at.talk.reduce(nested(at.rank), "sum"),
    "untouched": _untouched,
    "gather": _gather,
    "gradient": _gradient,
    "none": lambda at: at.talk.broadcast(None if at.rank == 0 else NOBODY),
    "objects": _broadcast,
    "ten_megabytes": _ten_megabytes,
    "gather_objects": lambda at: at.talk.gather_objects(message(at.rank)),
    "barrier": _barrier,
    "decide": _decide,
    "in_step": _in_step,
}
"""Every call by name; the last ones are those after which ranks might be out of step."""
