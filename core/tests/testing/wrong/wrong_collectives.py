"""Strategies whose ranks talk to one another, but for one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from wrong_base import PairStrategy

from torchrelay.collectives import Collectives, TorchCollectives
from torchrelay.testing import Subject
from torchrelay.tree import map_leaves, map_tensors


def wrong(name: str, **methods: Any) -> type:
    """A strategy whose collectives have some methods replaced."""
    kind = type(name, (TorchCollectives,), methods)

    def default_collectives(self: Any) -> Collectives:
        return kind(backend="gloo")

    return type(
        name,
        (PairStrategy,),
        {"__module__": __name__, "default_collectives": default_collectives},
    )


reduce = TorchCollectives.reduce
broadcast = TorchCollectives.broadcast
all_gather = TorchCollectives.all_gather


def mean_is_sum(self: Any, value: Any, op: Any = "mean") -> Any:
    floats = isinstance(value, torch.Tensor) and value.ndim and value.dtype is torch.float32
    return reduce(self, value, "sum" if floats and op == "mean" else op)


def wraps(self: Any, value: Any, op: Any = "mean") -> Any:
    result = reduce(self, value, op)
    narrow = isinstance(value, torch.Tensor) and value.dtype is torch.int8 and op != "mean"
    return result.to(value.dtype) if narrow else result


def widens(self: Any, value: Any, op: Any = "mean") -> Any:
    result = reduce(self, value, op)
    half = isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16
    return result.float() if half else result


def no_scalars(self: Any, value: Any, op: Any = "mean") -> Any:
    result = reduce(self, value, op)
    scalar = isinstance(value, torch.Tensor) and value.ndim == 0
    return result.reshape(1) if scalar else result


def no_booleans(self: Any, value: Any, op: Any = "mean") -> Any:
    result = reduce(self, value, op)
    flags = isinstance(value, torch.Tensor) and value.dtype is torch.bool
    return result.to(torch.uint8) if flags else result


def plain_tuples(self: Any, value: Any, op: Any = "mean") -> Any:
    result = reduce(self, value, op)
    if isinstance(result, dict) and "pair" in result:
        result["pair"] = tuple(result["pair"])
    return result


def in_place(self: Any, value: Any, op: Any = "mean") -> Any:
    result = reduce(self, value, op)
    if isinstance(value, list) and isinstance(value[0], torch.Tensor):
        value[0].copy_(result[0])
    return result


def backwards(self: Any, value: Any, sync_grads: bool = False) -> Any:
    result = all_gather(self, value, sync_grads)
    return result if sync_grads else map_tensors(result, lambda tensor: tensor.flip(0))


def own_gradient(self: Any, value: Any, sync_grads: bool = False) -> Any:
    result = all_gather(self, map_leaves(value, _detached))
    if sync_grads:
        result[self.rank] = value
    return result


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


def none_is_absence(self: Any, value: Any, src: int = 0) -> Any:
    sent = broadcast(self, value, src)
    return value if sent is None else sent


def from_the_first(self: Any, value: Any, src: int = 0) -> Any:
    return broadcast(self, value, 0)


def fixed_buffer(self: Any, value: Any, src: int = 0) -> Any:
    sent = broadcast(self, value, src)
    return sent[: 2**20] if isinstance(sent, bytes) else sent


def unordered(self: Any, value: Any) -> list[Any]:
    return list(reversed(TorchCollectives.gather_objects(self, value)))


def counts_first(self: Any, value: Any, op: Any = "mean") -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    if isinstance(value, (int, torch.Tensor)):
        counts = TorchCollectives.gather_objects(self, self.calls)
        if len(set(counts)) > 1:
            raise RuntimeError(f"allreduce.{self.calls} was submitted by some ranks only: {counts}")
    return reduce(self, value, op)


MeanIsSum = wrong("MeanIsSum", reduce=mean_is_sum)
Wraps = wrong("Wraps", reduce=wraps)
Widens = wrong("Widens", reduce=widens)
NoScalars = wrong("NoScalars", reduce=no_scalars)
NoBooleans = wrong("NoBooleans", reduce=no_booleans)
PlainTuples = wrong("PlainTuples", reduce=plain_tuples)
InPlace = wrong("InPlace", reduce=in_place)
Backwards = wrong("Backwards", all_gather=backwards)
OwnGradient = wrong("OwnGradient", all_gather=own_gradient)
NoneIsAbsence = wrong("NoneIsAbsence", broadcast=none_is_absence)
FromTheFirst = wrong("FromTheFirst", broadcast=from_the_first)
FixedBuffer = wrong("FixedBuffer", broadcast=fixed_buffer)
Unordered = wrong("Unordered", gather_objects=unordered)
NoBarrier = wrong("NoBarrier", barrier=lambda self, name="": None)
EachForItself = wrong("EachForItself", all=lambda self, decision: decision)
CountsFirst = wrong("CountsFirst", reduce=counts_first)


def _subject(kind: str) -> Subject:
    path = (str(Path(__file__).parent),)
    return Subject(f"wrong_collectives:{kind}", devices=2, accelerator="cpu", python_path=path)


MUTATIONS = {
    "reduces_floats": _subject("MeanIsSum"),
    "reduces_integers": _subject("Wraps"),
    "reduces_bf16": _subject("Widens"),
    "reduces_zero_dim": _subject("NoScalars"),
    "reduces_booleans": _subject("NoBooleans"),
    "reduces_nested": _subject("PlainTuples"),
    "leaves_its_input_alone": _subject("InPlace"),
    "gathers_in_rank_order": _subject("Backwards"),
    "gathers_gradients": _subject("OwnGradient"),
    "broadcasts_none": _subject("NoneIsAbsence"),
    "broadcasts_objects": _subject("FromTheFirst"),
    "broadcasts_10_mb": _subject("FixedBuffer"),
    "gathers_objects": _subject("Unordered"),
    "barrier_waits": _subject("NoBarrier"),
    "decides_together": _subject("EachForItself"),
    "stays_in_step": _subject("CountsFirst"),
}
