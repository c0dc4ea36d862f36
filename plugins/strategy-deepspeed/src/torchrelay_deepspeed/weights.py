"""An engine's weights in the canonical form: whole, by name, in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchrelay.checkpoint.model_state import load_model_state, some
from torchrelay.errors import CheckpointError
from torchrelay_deepspeed.layout import Place, in_memory, places
from torchrelay_deepspeed.vendor import gathered

State = dict[str, Any]


def full_weights(engine: Any, module: nn.Module | None = None) -> State:
    """The module's `state_dict()`, whole, with fp32 master weights in the place of 16-bit copies.

    Collective; one parameter at a time is assembled. On the CPU of rank 0; empty on other ranks.

    Args:
        engine: what `deepspeed.initialize` made.
        module: the user's module, where the engine got it inside another; names are those in it.
    """
    module = engine.module if module is None else module
    masters = {id(place.parameter): place for place in places(engine, module)}
    whole: State = {}  # tied weights are one tensor under two names, as in `state_dict()`
    full: State = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor):
            key = str(id(value))
            if key not in whole:
                whole[key] = _whole(engine, value, masters.get(id(value)))
            value = whole[key]
        full[name] = value
    return full if dist.get_rank() == 0 else {}


def keep_changed(whole: State, module: nn.Module) -> State:
    """Whole weights, but for those that somebody has changed in the module since the last update, which are its own.

    Args:
        whole: what `full_weights` gave; empty where this rank has none.
        module: the user's. At stage 3 it has nothing whole to compare with.
    """
    own = module.state_dict()
    return {
        name: value if _stands_for(own[name], value) else _in_fp32(own[name].cpu())
        for name, value in whole.items()
    }


def _stands_for(copy: Any, master: Any) -> bool:
    """Whether a weight is the master, or what became of it in the format that the engine computes in."""
    if not isinstance(copy, torch.Tensor) or copy.shape != master.shape:
        return True
    return torch.equal(copy.cpu(), master.to(copy.dtype))


def load_full_weights(
    engine: Any, state: Mapping[str, Any], module: nn.Module | None = None, *, strict: bool = True
) -> None:
    """Take up weights by name, in the engine's copies for computing and in the masters that it updates.

    Collective. What `state` lacks stays as it is; where the module renamed what it loaded, masters follow the copies.

    Args:
        engine: what `deepspeed.initialize` made.
        state: whole tensors by name, the same on every rank.
        module: the user's module, where the engine got it inside another.
        strict: refuse missing and unexpected names; shapes must agree in any case.

    Raises:
        CheckpointError: the state is another model's; the message names the first few keys.
    """
    module = engine.module if module is None else module
    if any(map(is_sharded, module.parameters())):
        _load_shards(module, state, strict)
    else:
        load_model_state(module, state, strict=strict)
    for place in places(engine, module):
        if place.master is not place.parameter:
            with torch.no_grad(), in_memory(engine, place, changed=True):
                _renew(place, state.get(place.name))


def is_sharded(parameter: object) -> bool:
    """Whether a parameter is one of stage 3's, of which each rank has a part."""
    return hasattr(parameter, "ds_id")


def _whole(engine: Any, tensor: torch.Tensor, place: Place | None) -> torch.Tensor | None:
    if place is not None:
        with in_memory(engine, place):
            found = place.gather(place.master, engine.device)
        return _in_fp32(found)
    with gathered([tensor]):
        return _in_fp32(tensor.detach().to("cpu", copy=True)) if dist.get_rank() == 0 else None


def _in_fp32(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """As a module has it before DeepSpeed turns it, frozen parameters and buffers too, to 16 bits."""
    return tensor.float() if tensor is not None and tensor.dtype in _SHORT else tensor


_SHORT = (torch.bfloat16, torch.float16)


def _renew(place: Place, value: torch.Tensor | None) -> None:
    if value is not None:
        place.scatter(place.master, value)
        return
    # Whole, as a rank's part may be on a disk.
    with gathered([place.parameter]):
        place.scatter(place.master, place.parameter.detach())


def _load_shards(module: nn.Module, state: Mapping[str, Any], strict: bool) -> None:
    """What `load_state_dict` does, with the parameters of one submodule at a time in memory."""
    wrong = _differences(module, state, strict)
    errors: list[str] = []
    for prefix, child in module.named_modules():
        if wrong:
            break
        dotted = f"{prefix}." if prefix else ""
        own = _own_part(child, state, dotted)
        with gathered(list(child.parameters(recurse=False)), modifier_rank=0):
            child._load_from_state_dict(  # noqa: SLF001 - the method that modules override to load themselves
                own, dotted, {}, False, [], [], errors
            )
    if wrong or errors:
        raise CheckpointError(
            f"the checkpoint does not fit {type(module).__name__}: {wrong or ' '.join(errors[0].split())}; load it "
            "into the model that it was saved from, or what fits of it with strict=False"
        )


def _own_part(child: nn.Module, state: Mapping[str, Any], prefix: str) -> State:
    """What a submodule itself loads; one that loads in its own way may also look at what is below it."""
    inherits = type(child)._load_from_state_dict is nn.Module._load_from_state_dict  # noqa: SLF001
    if not inherits or child._load_state_dict_pre_hooks:  # noqa: SLF001
        return {name: state[name] for name in state if name.startswith(prefix)}
    below = tuple(f"{prefix}{name}." for name, _ in child.named_children())
    return {
        name: state[name]
        for name in state
        if name.startswith(prefix) and not (below and name.startswith(below))
    }


def _differences(module: nn.Module, state: Mapping[str, Any], strict: bool) -> str:
    own = module.state_dict(keep_vars=True)
    found = {
        "of another shape": [
            f"{name} {tuple(state[name].shape)} for {tuple(_shape(value))}"
            for name, value in own.items()
            if name in state
            and isinstance(value, torch.Tensor)
            and _shape(state[name]) != _shape(value)
        ]
    }
    if strict:
        found["missing"] = [name for name in own if name not in state]
        found["unexpected"] = [name for name in state if name not in own]
    return "; ".join(f"{what} {some(names)}" for what, names in found.items() if names)


def _shape(tensor: Any) -> torch.Size:
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))
