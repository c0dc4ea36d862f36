"""The state of an engine's optimizer in the canonical form: whole, by parameter name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint.optimizer_names import from_names, to_names
from torchrelay.errors import CheckpointError, UnsupportedError
from torchrelay_deepspeed.layout import Place, in_memory, places, torch_optimizer

State = dict[str, Any]
Groups = Sequence[Sequence[str]]
"""The names of the parameters of each of an optimizer's groups."""

_OWN_OPTIONS = ("params", "param_names", "_ds_source_param_group_id")
"""Entries of a group that are no options: members, and a note that stage 3 makes."""


def group_names(optimizer: Optimizer, module: nn.Module) -> list[list[str]]:
    """The names of an optimizer's parameters by group, to be asked before `deepspeed.initialize` replaces them.

    Only these tell of frozen parameters, which DeepSpeed leaves out. Groups without any are left out as it does.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    found = to_names(optimizer, names, {"state": {}, "param_groups": _numbered(optimizer)})
    return [group["params"] for group in found["param_groups"] if group["params"]]


def full_optimizer_state(
    engine: Any, module: nn.Module | None = None, groups: Groups | None = None
) -> State:
    """The state as `torchrelay.checkpoint.to_names` has it of a torch optimizer, whatever DeepSpeed made of it.

    Collective; one tensor of one parameter at a time is assembled. On the CPU of rank 0; others get no tensors.

    Args:
        engine: what `deepspeed.initialize` made, with an optimizer.
        module: the user's module, where the engine got it inside another; names are those in it.
        groups: what `group_names` gave; None where no parameter in the optimizer is frozen.

    Raises:
        UnsupportedError: the optimizer keeps something that cannot be cut by parameter.
    """
    module = engine.module if module is None else module
    optimizer = _optimizer_of(engine)
    found = places(engine, module)
    state: State = {}
    for place in found:
        with in_memory(engine, place):
            entry = {
                key: _gather(engine, optimizer, place, key, value)
                for key, value in optimizer.state.get(place.master, {}).items()
            }
        if entry and dist.get_rank() == 0:
            state[place.name] = entry
    members = groups or _groups_of(found, len(optimizer.param_groups))
    return {
        "state": state,
        "param_groups": [
            {**_options(group), "params": list(names)}
            for group, names in zip(optimizer.param_groups, members, strict=True)
        ],
    }


def load_full_optimizer_state(
    engine: Any,
    state: Mapping[str, Any],
    module: nn.Module | None = None,
    groups: Groups | None = None,
) -> None:
    """Take up a state by name (integer keys are accepted), whatever strategy wrote it; the options of groups too.

    Not collective. The optimizer need not have made a step.

    Args:
        engine: what `deepspeed.initialize` made, with an optimizer.
        state: with whole tensors, the same on every rank.
        module: the user's module, where the engine got it inside another.
        groups: what `group_names` gave; None where no parameter in the optimizer is frozen.

    Raises:
        CheckpointError: parameters are missing or unexpected, or groups differ.
    """
    module = engine.module if module is None else module
    optimizer = _optimizer_of(engine)
    found = places(engine, module)
    members = groups or _groups_of(found, len(optimizer.param_groups))
    fitting = _fit(optimizer, members, state)
    for group, options in zip(optimizer.param_groups, fitting["param_groups"], strict=True):
        group.update(_options(options))
    flat = [name for names in members for name in names]
    entries = {name: fitting["state"].get(index, {}) for index, name in enumerate(flat)}
    for shard in _shards(found):
        _fill(engine, optimizer, shard, [entries[place.name] for place in shard])
    relink(engine)


def relink(engine: Any) -> None:
    """Have `deepspeed.utils.safe_get_full_optimizer_state` and its like find a state that was replaced (stages 1, 2).

    They look at it through views made at the first step, which loading a checkpoint leaves behind.
    """
    wrapper, optimizer = engine.optimizer, torch_optimizer(engine)
    if not hasattr(wrapper, "_hp_optimizer_states_linked") or optimizer is None:
        return
    wrapper._hp_optimizer_states_linked = False  # noqa: SLF001 - there is no other way to have them made again
    if all(optimizer.state.get(group["params"][0]) for group in optimizer.param_groups):
        wrapper._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - as its first step does


def undo_first_step(engine: Any) -> None:
    """Take back the step that DeepSpeed makes inside `initialize`, without gradients, at stage 0 in 16 bits.

    By it Adam would count one more step than there were, and AdamW have decayed the weights once more. Call it
    directly after `deepspeed.initialize`; for other engines it does nothing.
    """
    wrapper, optimizer = engine.optimizer, torch_optimizer(engine)
    if optimizer is None or not (
        hasattr(wrapper, "fp32_groups") or hasattr(wrapper, "fp32_groups_flat")
    ):
        return
    optimizer.state.clear()
    wrapper.refresh_fp32_params()


@dataclass(frozen=True)
class _Members:
    """Stands for the optimizer as it was before DeepSpeed replaced its parameters."""

    param_groups: list[State]


def _optimizer_of(engine: Any) -> Optimizer:
    optimizer = torch_optimizer(engine)
    if optimizer is None:
        raise UnsupportedError("this engine has no optimizer, so it has no state of one; train it")
    return optimizer


def _numbered(optimizer: Optimizer) -> list[State]:
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    return [{"params": range(sum(sizes[:i]), sum(sizes[: i + 1]))} for i in range(len(sizes))]


def _groups_of(found: Iterable[Place], number: int) -> list[list[str]]:
    members: list[list[str]] = [[] for _ in range(number)]
    for place in found:
        members[place.group].append(place.name)
    return members


def _options(group: Mapping[str, Any]) -> State:
    return {key: value for key, value in group.items() if key not in _OWN_OPTIONS}


def _fit(optimizer: Optimizer, members: Groups, state: Mapping[str, Any]) -> State:
    stand_in = _Members(
        [
            {**group, "params": list(names)}
            for group, names in zip(optimizer.param_groups, members, strict=True)
        ]
    )
    names = {name: name for group in members for name in group}
    return from_names(cast("Optimizer", stand_in), state, names)


def _shards(found: Iterable[Place]) -> list[list[Place]]:
    """Places that share a master, and so one entry in the optimizer."""
    shards: dict[int, list[Place]] = {}
    for place in found:
        shards.setdefault(id(place.master), []).append(place)
    return list(shards.values())


def _gather(engine: Any, optimizer: Optimizer, place: Place, key: str, value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or (value.dim() == 0 and place.master.dim() > 0):
        return _counted(optimizer, value)
    if value.shape != place.master.shape:
        raise UnsupportedError(
            f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for all parameters of a shard "
            "together, which no other strategy can take up; save sharded, or use an optimizer that keeps one number "
            "for each weight"
        )
    return place.gather(value, engine.device)


def _counted(optimizer: Optimizer, value: Any) -> Any:
    """A count of steps as torch's optimizers keep it, where DeepSpeed's own keep a number."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if _is_deepspeeds(optimizer) and isinstance(value, Real):
        return torch.tensor(float(value))
    return value


def _is_deepspeeds(optimizer: Optimizer) -> bool:
    kinds = [kind for kind in type(optimizer).__mro__ if kind is not Optimizer]
    return any(kind.__module__.startswith("deepspeed.") for kind in kinds)


def _fill(
    engine: Any, optimizer: Optimizer, shard: list[Place], entries: Sequence[Mapping[str, Any]]
) -> None:
    """Make the state that the optimizer keeps for a shard of those of its parameters."""
    master = shard[0].master
    lead = _furthest(entries)
    with torch.no_grad(), in_memory(engine, shard[0], changed=True):
        before = optimizer.state.pop(master, {})
        made: State = {}
        for key in dict.fromkeys(key for entry in entries for key in entry):
            if not _is_per_weight(key, entries):
                made[key] = _as_kept(optimizer, lead.get(key), master.device)
                continue
            made[key] = before.get(key)
            if not isinstance(made[key], torch.Tensor) or made[key].shape != master.shape:
                made[key] = torch.zeros_like(master)
            made[key].zero_()  # where no parameter is, and of those that have had no gradient yet
            for place, entry in zip(shard, entries, strict=True):
                if key in entry:
                    place.scatter(made[key], _fitting(place, key, entry[key]))
        if made:
            optimizer.state[master] = made


def _fitting(place: Place, key: str, value: torch.Tensor) -> torch.Tensor:
    if value.shape != place.shape:
        raise CheckpointError(
            f"the checkpoint has {key!r} of shape {tuple(value.shape)} for {place.name}, which is of "
            f"{tuple(place.shape)}; load it with the model and the optimizer that it was saved from"
        )
    return value


def _is_per_weight(key: str, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an entry has a number for each weight; otherwise it is a count."""
    values = (entry[key] for entry in entries if key in entry)
    return key != "step" and any(
        isinstance(each, torch.Tensor) and each.dim() > 0 for each in values
    )


def _furthest(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The entry of most steps, which stands for all: a shard has one count."""
    steps = [float(entry.get("step", 0)) for entry in entries if entry]
    if len(set(steps)) > 1 and dist.get_rank() == 0:
        warnings.warn(
            f"the checkpoint has parameters of {int(min(steps))} and of {int(max(steps))} steps in one group, and "
            f"DeepSpeed counts one number for all of them; it goes on from {int(max(steps))}",
            stacklevel=2,
        )
    return max(entries, key=lambda entry: float(entry.get("step", -1) if entry else -2))


def _as_kept(optimizer: Optimizer, value: Any, device: torch.device) -> Any:
    """A count as this optimizer keeps it."""
    if not isinstance(value, torch.Tensor):
        return value
    if _is_deepspeeds(optimizer):
        return int(value)  # they count nothing but steps
    # As in torch's own loading: the count stays on the CPU unless the optimizer computes with it elsewhere.
    on_device = any(
        group.get("capturable") or group.get("fused") for group in optimizer.param_groups
    )
    return value.detach().to(device if on_device else value.device, copy=True)
