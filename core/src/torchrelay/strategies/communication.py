"""What callbacks and modules of Lightning's style ask of a strategy, all of it done by its collectives."""

from __future__ import annotations

from typing import Any

from torchrelay.collectives.collectives import ReduceOp
from torchrelay.strategies.ranks import Ranked

_OPS: dict[str, ReduceOp] = {
    "avg": "mean",
    "mean": "mean",
    "sum": "sum",
    "min": "min",
    "max": "max",
}


class Communication(Ranked):
    """Communicates by its collectives; a backend that communicates otherwise brings collectives of its own."""

    def barrier(self, name: str | None = None) -> None:
        """Wait until all ranks have come here. Collective."""
        self.collectives.barrier(name or "")

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Rank `src`'s object, on every rank. Collective."""
        return self.collectives.broadcast(obj, src)

    def all_gather(self, tensor: Any, group: None = None, sync_grads: bool = False) -> Any:
        """Collect tensors of equal shape (*s) from all ranks into (world_size, *s). Collective."""
        return self.collectives.all_gather(tensor, sync_grads)

    def reduce(self, tensor: Any, group: None = None, reduce_op: str | None = "mean") -> Any:
        """Combine tensors over all ranks: "mean" ("avg"), "sum", "min" or "max". Collective."""
        return self.collectives.reduce(tensor, _OPS[str(reduce_op or "mean").lower()])

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002 - Lightning's name
        """Whether all ranks say yes; whether any does where `all` is False. Collective."""
        decide = self.collectives.all if all else self.collectives.any
        return decide(bool(decision))
