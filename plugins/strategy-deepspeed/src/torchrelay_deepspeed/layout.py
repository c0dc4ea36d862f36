"""Where a DeepSpeed engine keeps what belongs to a parameter: its fp32 master weights and its optimizer state.

Each kind of engine cuts them up in its own way. A `Place` tells one parameter's in the same words for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True, eq=False)
class Place:
    """One parameter's part of what the torch optimizer inside an engine updates.

    Attributes:
        name: of the parameter.
        parameter: the module's.
        master: what the optimizer updates in its stead: the parameter itself, an fp32 copy of it, or this rank's
            shard of the copies of many. The optimizer's state is kept under it, in tensors of the same shape.
        group: index of its group in the optimizer.
        shape: of the whole parameter.
        start: where its elements begin in the flattened `master`.
        offset: the first of the parameter's elements that this rank has.
        numel: how many of them this rank has; 0 where all are on others.
        ranks: the processes that have the others; None where each has all of them.
        on_disk: which shard it is, where it has to be read from a disk first; None otherwise.
    """

    name: str
    parameter: nn.Parameter
    master: torch.Tensor
    group: int
    shape: torch.Size
    start: int
    offset: int
    numel: int
    ranks: Any = None
    on_disk: int | None = None

    def gather(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """The whole of what `tensor` (the master or a state of its shape) holds of the parameter.

        Collective where it is spread over ranks: one parameter is assembled, on `device`. On the CPU, for rank 0.
        """
        root = dist.get_rank() == 0
        if self.ranks is None:
            return self.part(tensor).reshape(self.shape).to("cpu", copy=True) if root else None
        whole = torch.zeros(self.shape.numel(), dtype=tensor.dtype, device=device)
        whole.narrow(0, self.offset, self.numel).copy_(self.part(tensor))
        # The parts do not overlap and the rest is zero, so that the sum is each part, unchanged.
        dist.reduce(whole, dst=0, group=self.ranks)
        return whole.reshape(self.shape).cpu() if root else None

    def scatter(self, tensor: torch.Tensor, whole: torch.Tensor) -> None:
        """Copy this rank's part of a parameter's values into `tensor`. Not collective."""
        if tensor.shape == self.shape and self.ranks is None:
            tensor.copy_(whole)  # which need not be contiguous, as it is where it is flattened
        else:
            self.part(tensor).copy_(whole.reshape(-1).narrow(0, self.offset, self.numel))

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's elements of the parameter in the master or a state of its shape, flattened."""
        return tensor.detach().reshape(-1).narrow(0, self.start, self.numel)


def torch_optimizer(engine: Any) -> Optimizer | None:
    """The torch optimizer inside an engine; None in one that trains nothing."""
    wrapper = engine.optimizer
    found = wrapper if isinstance(wrapper, Optimizer) else getattr(wrapper, "optimizer", None)
    return found if isinstance(found, Optimizer) else None


def places(engine: Any, module: nn.Module) -> list[Place]:
    """Every parameter that the engine trains, in the order of its groups, the same on all ranks.

    Args:
        engine: what `deepspeed.initialize` made.
        module: the user's, whose names the parameters get.
    """
    if torch_optimizer(engine) is None:
        return []
    names = {parameter: name for name, parameter in module.named_parameters()}
    wrapper = engine.optimizer
    for attribute, layout in LAYOUTS.items():
        if hasattr(wrapper, attribute):
            return list(layout(wrapper, names))
    return list(_themselves(wrapper, names))


Names = Mapping[Any, str]


def _themselves(optimizer: Optimizer, names: Names) -> Iterator[Place]:
    """Stage 0 in fp32: a plain torch optimizer."""
    for group, options in enumerate(optimizer.param_groups):
        for parameter in options["params"]:
            if parameter.requires_grad:
                yield _whole(names, parameter, parameter, group)


def _copies(wrapper: Any, names: Names) -> Iterator[Place]:
    """Stage 0 in 16 bits: each rank has an fp32 copy of each parameter."""
    pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
    for group, (parameters, masters) in enumerate(pairs):
        for parameter, master in zip(parameters, masters, strict=True):
            yield _whole(names, parameter, master, group)


def _flat_copies(wrapper: Any, names: Names) -> Iterator[Place]:
    """Stage 0 in 16 bits with DeepSpeed's FusedAdam: each rank has one flat fp32 copy of a group."""
    pairs = zip(wrapper.fp16_groups, wrapper.fp32_groups_flat, strict=True)
    for group, (parameters, master) in enumerate(pairs):
        start = 0
        for parameter in parameters:
            yield _whole(names, parameter, master, group, start)
            start += parameter.numel()


def _flat_shards(wrapper: Any, names: Names) -> Iterator[Place]:
    """Stages 1 and 2: a group is flattened and cut into equal shards, which need not respect parameters."""
    groups = wrapper.bit16_groups if hasattr(wrapper, "bit16_groups") else wrapper.bf16_groups
    for group, parameters in enumerate(groups):
        master = wrapper.param_groups[group]["params"][0]
        ranks = wrapper.real_dp_process_group[group]
        begin = dist.get_rank(ranks) * master.numel()
        starts = _starts(wrapper, group, parameters)
        for parameter in parameters:
            start, size = starts[parameter], parameter.numel()
            first, last = max(start, begin), min(start + size, begin + master.numel())
            here = first < last
            yield Place(
                name=names[parameter],
                parameter=parameter,
                master=master,
                group=group,
                shape=parameter.shape,
                start=first - begin if here else 0,
                offset=first - start if here else 0,
                numel=last - first if here else 0,
                ranks=ranks,
            )


def _starts(wrapper: Any, group: int, parameters: list[nn.Parameter]) -> dict[nn.Parameter, int]:
    """Where each parameter begins in a flattened group.

    DeepSpeed's own `_hp_mapping`, which its public getters use, is another's with `round_robin_gradients`.
    """
    if hasattr(wrapper, "round_robin_bit16_groups"):
        order = wrapper.round_robin_bit16_groups[group]
        return dict(zip(order, wrapper.round_robin_bit16_offsets[group], strict=True))
    ends = accumulate(parameter.numel() for parameter in parameters)
    return {each: end - each.numel() for each, end in zip(parameters, ends, strict=True)}


def _sharded_parameters(wrapper: Any, names: Names) -> Iterator[Place]:
    """Stage 3: each parameter is cut into equal shards; a rank's are put together into flat ones."""
    for shard, parameters in enumerate(wrapper.fp16_groups):
        swapped = wrapper.swap_optimizer and wrapper._swappable_optimizer_subgroup(shard)  # noqa: SLF001
        for parameter in parameters:
            _, start, size = wrapper.grad_position[wrapper.get_param_id(parameter)]
            begin = min(dist.get_rank(parameter.ds_process_group) * size, parameter.ds_numel)
            yield Place(
                name=names[parameter],
                parameter=parameter,
                master=wrapper.fp32_partitioned_groups_flat[shard],
                group=wrapper.sub_group_to_group_id[shard],
                shape=torch.Size(parameter.ds_shape),
                start=start,
                offset=begin,
                numel=min(size, parameter.ds_numel - begin),
                ranks=parameter.ds_process_group,
                on_disk=shard if swapped else None,
            )


def _whole(
    names: Names, parameter: nn.Parameter, master: torch.Tensor, group: int, start: int = 0
) -> Place:
    shape = parameter.shape
    return Place(names[parameter], parameter, master, group, shape, start, 0, parameter.numel())


# The attribute by which a wrapper is known, so that no engine has to be imported to tell. The order matters:
# stage 3 has `fp16_groups` too.
LAYOUTS: Mapping[str, Callable[[Any, Names], Iterator[Place]]] = MappingProxyType(
    {
        "bit16_groups": _flat_shards,
        "bf16_groups": _flat_shards,
        "fp32_partitioned_groups_flat": _sharded_parameters,
        "fp32_groups_flat": _flat_copies,
        "fp32_groups": _copies,
    }
)


@contextmanager
def in_memory(engine: Any, place: Place, *, changed: bool = False) -> Iterator[None]:
    """A block in which a place's master and state are in memory, also where they rest on a disk.

    Args:
        engine: the one that the place is of.
        place: a place.
        changed: write them back at the end.
    """
    if place.on_disk is None:
        yield
        return
    wrapper = engine.optimizer
    wrapper._optimizer_states_and_gradient_swap_in(place.on_disk)  # noqa: SLF001 - what its own getters call
    try:
        yield
    finally:
        if changed:
            wrapper._optimizer_states_and_gradient_swap_out(place.on_disk)  # noqa: SLF001
        else:
            wrapper._release_swap_buffers(place.on_disk)  # noqa: SLF001
