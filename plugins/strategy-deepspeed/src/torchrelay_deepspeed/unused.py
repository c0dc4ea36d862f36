"""Parameters that take no part in a step: under ZeRO each counts as having a gradient of zero, on every rank.

DeepSpeed 0.19.8 reduces the gradients that there are, as they come. So at stage 3, whose parts of gradients are written
anew only where something is reduced, the last gradient of an unused parameter would count again; and ranks that use
different parameters would reduce different things together, from stage 1 on. Here what is missing after a backward is
reduced as zeros, before DeepSpeed reduces the last bucket.

At stages 1 and 2 that makes ranks alike, as long as all gradients go into one bucket. Where they do not, and at stage
3, where ranks have to go through the same layers to gather their weights (`reset_step` of
PartitionedParameterCoordinator), ranks are asked after each backward whether they used the same, and refuse together if
not. The answer may come after the reduction where all gradients are in one bucket, which has the same size on each rank
whatever they used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchrelay.errors import UnsupportedError
from torchrelay_deepspeed.vendor import HOLDER

Names = Mapping[nn.Parameter, str]
Members = list[tuple[nn.Parameter, tuple[int, ...]]]


@dataclass(eq=False)
class _Reduction:
    """How one stage reduces.

    Attributes:
        members: every trained parameter, and the further arguments with which DeepSpeed reduces it.
        reduce: DeepSpeed's, for one parameter whose gradient is there.
        finish: DeepSpeed's, for the end of a backward.
        is_due: whether this backward reduces at all.
        lacks: whether a parameter that had no gradient in this backward has none of an earlier one either.
        arrange: gives what waits for its reduction the order that it has on every rank.
        together: why all ranks have to use the same parameters; "" where they need not.
        in_parts: whether gradients are reduced in several buckets, which then differ where parameters do.
        names: of the parameters.
        device: of gradients.
    """

    members: Members
    reduce: Callable[..., None]
    finish: Callable[..., None]
    is_due: Callable[[], bool]
    lacks: Callable[[nn.Parameter], bool]
    arrange: Callable[[], None]
    together: str
    in_parts: bool
    names: Names
    device: torch.device
    seen: set[int] = field(default_factory=set)

    def note(self, parameter: nn.Parameter, *arguments: int) -> None:
        """Reduce a gradient, in DeepSpeed's hooks."""
        self.seen.add(id(parameter))
        self.reduce(parameter, *arguments)

    def end(self, *args: Any, **kwargs: Any) -> None:
        """Reduce zeros for what is missing; then what is left."""
        question = self._fill() if self.is_due() else None
        self.seen.clear()
        self.finish(*args, **kwargs)
        if question:
            question.settle()

    def _fill(self) -> _Question | None:
        """Reduce zeros for what is missing; gives what is still to be settled before the update."""
        missing = self._missing()
        question = self._ask(missing) if self.together else None
        if question and self.in_parts:
            question.settle()
            question = None
        for parameter, arguments in missing:
            if self.lacks(parameter):
                _give_zeros(parameter, self.device)
            self.reduce(parameter, *arguments)
        self.arrange()
        return question

    def _ask(self, missing: Members) -> _Question:
        names = [self.names[parameter] for parameter, _ in missing]
        return _Question(names, self.together, self.device)

    def _missing(self) -> Members:
        if len(self.seen) == len(self.members):
            return []
        return [each for each in self.members if id(each[0]) not in self.seen]


class _Question:
    """Whether all ranks have left the same parameters unused, on its way while gradients are reduced. Collective.

    Args:
        names: of the parameters that this rank has left unused.
        together: why it has to be so.
        device: for what ranks send each other.
    """

    def __init__(self, names: list[str], together: str, device: torch.device) -> None:
        self._names, self._together = names, together
        digest = zlib.crc32(" ".join(names).encode())
        self._ends = torch.tensor([digest, -digest], dtype=torch.int64, device=device)
        self._work = dist.all_reduce(self._ends, op=dist.ReduceOp.MAX, async_op=True)

    def settle(self) -> None:
        """Wait for the answer.

        Raises:
            UnsupportedError: on all ranks, they have not.
        """
        self._work.wait()
        most, least = self._ends.tolist()
        if most == -least:
            return
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, self._names)
        some = sorted({name for names in everyone for name in names})
        named = ", ".join(some[:3]) + (" and others" if len(some) > 3 else "")
        raise UnsupportedError(
            f"{named} took part in this step on some ranks and were unused on others, and {self._together}; where a "
            "layer has nothing to do, add 0 * unused(x).sum() to the loss"
        )


def _give_zeros(parameter: nn.Parameter, device: torch.device) -> None:
    """A gradient of zeros, also where this rank has a part of the parameter alone."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    own = parameter.data
    zeros = torch.zeros(shape, dtype=own.dtype, device=device)
    # torch compares a gradient with its parameter when it is set, and not afterwards.
    parameter.data = zeros
    parameter.grad = zeros
    parameter.data = own


def reduce_unused(engine: Any, module: nn.Module) -> None:
    """Let an engine reduce zeros for parameters that take no part in a backward.

    Args:
        engine: what `deepspeed.initialize` made. At stage 0 it does so by itself.
        module: the user's, whose names go into messages.
    """
    stage = int(engine.zero_optimization_stage())
    make = {1: _flat, 2: _flat, 3: _sharded}.get(stage)
    # Of stage 1 there is another optimizer, for bf16 with fp32 gradients, which adds up what there is in a buffer.
    if make is None or not hasattr(engine.optimizer, "ipg_buckets"):
        return
    names = {parameter: name for name, parameter in module.named_parameters()}
    make(engine, names)


def _flat(engine: Any, names: Names) -> None:
    """Stages 1 and 2."""
    optimizer = engine.optimizer
    members: Members = [
        (parameter, (group,))
        for group, parameters in enumerate(optimizer.bit16_groups)
        for parameter in parameters
        if parameter.requires_grad
    ]
    # Without hooks, at stage 1, they are reduced at the end, in the order of the groups.
    in_hooks = optimizer.partition_gradients or optimizer.overlap_comm
    size = sum(each.numel() for each, _ in members)
    split = in_hooks and size > optimizer.reduce_bucket_size
    reduction = _Reduction(
        members=members,
        reduce=optimizer.process_gradients,
        finish=engine.allreduce_gradients,
        is_due=lambda: optimizer.partition_gradients or engine.is_gradient_accumulation_boundary(),
        lacks=lambda parameter: optimizer.get_gradient_for_reduction(parameter) is None,
        arrange=lambda: None if split else _arrange(optimizer),
        together=_TOO_MANY if split else "",
        in_parts=split,
        names=names,
        device=engine.device,
    )
    optimizer.process_gradients = reduction.note
    engine.allreduce_gradients = reduction.end


_TOO_MANY = 'DeepSpeed reduces gradients in several buckets here; take a larger "reduce_bucket_size", in which all fit'

_GATHERED = "at stage 3 ranks gather the weights of each layer together; take stage 2"


def _sharded(engine: Any, names: Names) -> None:
    """Stage 3."""
    optimizer = engine.optimizer
    members: Members = [
        (parameter, ())
        for parameters in optimizer.fp16_groups
        for parameter in parameters
        if parameter.requires_grad
    ]
    parameters: list[Any] = [each for each, _ in members]
    small = [each for each in parameters if each.ds_persist]
    reduction = _Reduction(
        members=members,
        reduce=optimizer.reduce_ready_partitions_and_remove_grads,
        finish=engine.allreduce_gradients,
        is_due=lambda: True,
        lacks=lambda _: True,
        arrange=partial(_let_go, small),
        together=_GATHERED,
        in_parts=sum(each.ds_numel for each in parameters) > optimizer.reduce_bucket_size,
        names=names,
        device=engine.device,
    )
    optimizer.reduce_ready_partitions_and_remove_grads = reduction.note
    engine.allreduce_gradients = reduction.end
    engine.module.register_forward_pre_hook(partial(_hold, small))


def _hold(parameters: list[Any], module: nn.Module, _: Any) -> None:
    """Have small parameters whole before a forward. Collective.

    DeepSpeed keeps them whole too, but not before it has seen twice that the same layers are used in the same order: on
    ranks that use different ones, those would wait for each other rather than be told.
    """
    if not module.training:
        return
    apart = [each for each in parameters if each.ds_status.name != "AVAILABLE"]
    if apart:
        apart[0].all_gather(apart)
    for each in parameters:
        each.ds_active_sub_modules.add(HOLDER)


def _let_go(parameters: list[Any]) -> None:
    for each in parameters:
        each.ds_active_sub_modules.discard(HOLDER)


def _arrange(optimizer: Any) -> None:
    """Sort the gradients in a bucket of stages 1 and 2, the last parameter first, which is how most come anyway."""
    for bucket in optimizer.ipg_buckets.values():
        order = sorted(range(len(bucket.params)), key=bucket.params.__getitem__, reverse=True)
        if order == list(range(len(order))):
            continue
        gradients = [bucket.grads[at] for at in order]
        if optimizer.contiguous_gradients:
            _lay_out(bucket.buffer[bucket.index], gradients)
        bucket.params[:] = [bucket.params[at] for at in order]
        bucket.grads[:] = gradients


def _lay_out(buffer: torch.Tensor, gradients: list[torch.Tensor]) -> None:
    """Put gradients, which are views of a buffer, there in another order."""
    copy = torch.cat([each.reshape(-1) for each in gradients])
    buffer.narrow(0, 0, copy.numel()).copy_(copy)
    start = 0
    for each in gradients:
        each.data = buffer.narrow(0, start, each.numel()).view_as(each)
        start += each.numel()
