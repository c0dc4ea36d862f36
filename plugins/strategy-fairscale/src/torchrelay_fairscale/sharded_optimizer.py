"""OSS, FairScale's sharded optimizer: made of the user's, and its state by parameter name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint.optimizer_names import from_names, to_names
from torchrelay.errors import UnsupportedError
from torchrelay_fairscale import vendor

Names = Mapping[nn.Parameter, str]
State = dict[str, Any]


def sharded(optimizer: Optimizer, names: Names, *, broadcast_fp16: bool) -> Any:
    """An OSS that updates as the user's optimizer does, each rank its part of the parameters.

    Args:
        optimizer: the user's; not to be used any more.
        names: of the parameters, for messages.
        broadcast_fp16: send updated weights in 16 bits.

    Raises:
        UnsupportedError: parameters of several formats, which do not fit into one buffer.
    """
    _check_formats(optimizer, names, broadcast_fp16)

    def make(groups: list[dict[str, Any]], **_: Any) -> Optimizer:
        return _part_of(optimizer, groups)

    groups = [dict(group) for group in optimizer.param_groups]
    return vendor.make_sharded_optimizer(groups, make, broadcast_fp16=broadcast_fp16)


def _part_of(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """The same optimizer for some of its parameters, whatever its constructor takes.

    A constructor need not take what it has put into `defaults`: torch's AdamW does not.
    """
    part: Optimizer = object.__new__(type(optimizer))
    # Without `step`, which a scheduler puts there for an optimizer whose calls it counts.
    vars(part).update({key: value for key, value in vars(optimizer).items() if key != "step"})
    part.param_groups = groups
    own = [parameter for group in groups for parameter in group["params"]]
    part.state = defaultdict(dict, {p: optimizer.state[p] for p in own if p in optimizer.state})
    return part


def _check_formats(optimizer: Optimizer, names: Names, broadcast_fp16: bool) -> None:
    firsts: dict[torch.dtype, str] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                firsts.setdefault(parameter.dtype, names.get(parameter, "a parameter"))
    if len(firsts) > 1:
        listed = ", ".join(f"{name} is {dtype}" for dtype, name in firsts.items())
        raise UnsupportedError(
            f"OSS keeps what a rank updates in one tensor, and {type(optimizer).__name__} has parameters of several "
            f"formats ({listed}); give each format an optimizer of its own, or use strategy='ddp'"
        )
    if broadcast_fp16 and torch.float32 not in firsts:
        raise UnsupportedError(
            f"broadcast_fp16=True sends weights of fp32 in 16 bits, and {type(optimizer).__name__} has none; leave it "
            "out"
        )


def full_state(optimizer: Any, names: Names) -> State:
    """The whole state by name, on rank 0; empty elsewhere. Collective."""
    optimizer.consolidate_state_dict(recipient_rank=0)
    if optimizer.rank != 0:
        return {}
    state = to_names(optimizer, names, optimizer.state_dict())
    optimizer._all_states = []  # noqa: SLF001 - where it would keep a copy of everybody's state
    return state


def load_full_state(optimizer: Any, state: Mapping[str, Any], names: Names) -> None:
    """Take up this rank's part of a whole state by name, and the options of groups.

    Raises:
        CheckpointError: it is another optimizer's.
    """
    whole = from_names(optimizer, state, names)
    index = {p: i for i, p in enumerate(_parameters(optimizer))}
    part = optimizer.optim
    entries = [whole["state"].get(index[p]) for p in _parameters(part)]
    groups, place = [], 0
    for own, group, saved in zip(
        optimizer.param_groups, part.param_groups, whole["param_groups"], strict=True
    ):
        options = {key: value for key, value in saved.items() if key != "params"}
        own.update(options)
        many = len(group["params"])
        groups.append({**options, "params": list(range(place, place + many))})
        place += many
    # torch's own way of taking up a state, which knows what has to be on the device and what must not.
    part.load_state_dict(
        {"state": {i: e for i, e in enumerate(entries) if e is not None}, "param_groups": groups}
    )


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def release(optimizer: Any) -> None:
    """Let parameters have memory of their own again, and bring this rank's part of the state to the CPU."""
    for parameter in _parameters(optimizer):
        parameter.data = parameter.data.clone()
    for entry in optimizer.optim.state.values():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):
                entry[key] = value.cpu()
    vendor.disconnect_optimizer(optimizer)
