"""The user's optimizer as one of PopTorch's, whose state alone comes back from the device; and that state by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.errors import CheckpointError, UnsupportedError
from torchrelay_ipu import vendor

OPTIONS: dict[type[Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
    torch.optim.Adam: ("lr", "betas", "eps", "weight_decay"),
    torch.optim.AdamW: ("lr", "betas", "eps", "weight_decay"),
}
"""What is handed over; all by name, as PopTorch lets only those options change later that its constructor was given."""

TENSORS = {
    "SGD": {"momentum_buffer": "Accl1___"},
    "Adam": {"exp_avg": "Accl1___", "exp_avg_sq": "Accl2___", "step": "Step___"},
    "AdamW": {"exp_avg": "Accl1___", "exp_avg_sq": "Accl2___", "step": "Step___"},
}
"""Optimizer -> torch's name of a state -> what PopART puts before the parameter's name.

Adam's: graphcore/poptorch, tests/optimizers_test.py, and graphcore/popart, names.hpp. SGD's: names.hpp alone.
"""

_PATHS = ("module.{}", "model.module.{}")
"""A parameter's place in the traced step, and with PopTorch's own wrapper around that."""

SUPPORTED = "use torch.optim.SGD, Adam or AdamW, or PopTorch's own of these names"


def converted(optimizer: Optimizer, max_norm: float | None) -> Optimizer:
    """PopTorch's optimizer in the place of torch's, clipping where that is asked for.

    Raises:
        UnsupportedError: PopTorch has none like it, or it does not clip.
    """
    kind = type(optimizer)
    if vendor.is_own(optimizer):
        return _clipping(optimizer, max_norm)
    if kind not in OPTIONS:
        raise UnsupportedError(
            f"{kind.__name__} cannot be compiled into a step on an IPU, or keeps a state there that has no known form; "
            f"{SUPPORTED}"
        )
    for group in optimizer.param_groups:
        for flag in ("amsgrad", "maximize", "decoupled_weight_decay"):
            # AdamW is Adam with the last of these.
            if group.get(flag) and not (kind is torch.optim.AdamW and flag.startswith("decoupled")):
                raise UnsupportedError(f"{kind.__name__}({flag}=True) is not supported on an IPU")
    groups = [
        {"params": group["params"], **_options(group, OPTIONS[kind])}
        for group in optimizer.param_groups
    ]
    extra = {} if max_norm is None else {"max_grad_norm": float(max_norm)}
    new = vendor.make_optimizer(
        kind.__name__, groups, {**_options(optimizer.param_groups[0], OPTIONS[kind]), **extra}
    )
    for group, old in zip(new.param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in old.items() if key not in group})
    made: Optimizer = new
    return made


def _clipping(optimizer: Any, max_norm: float | None) -> Optimizer:
    if type(optimizer).__name__ not in TENSORS:
        raise UnsupportedError(f"{type(optimizer).__name__}'s state has no known form; {SUPPORTED}")
    if max_norm is not None:
        own_norm = vendor.max_norm(optimizer)
        if own_norm not in (float("inf"), max_norm):
            raise UnsupportedError(
                f"gradient_clip_val={max_norm} and max_grad_norm={own_norm} of the optimizer contradict "
                "each other; give one of them"
            )
        vendor.set_max_norm(optimizer, float(max_norm))
    own: Optimizer = optimizer
    return own


def _options(group: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: float(group[name]) if isinstance(group[name], torch.Tensor) else group[name]
        for name in names
    }


def settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What of an optimizer can change between updates."""
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


# --- state ----------------------------------------------------------------------------------------------


def from_device(optimizer: Optimizer, names: Mapping[Any, str]) -> dict[int, dict[str, Any]]:
    """The device's state as torch has it, by the number of the parameter.

    Raises:
        CheckpointError: the device gives something under a name that is not understood.
    """
    found = vendor.read_state(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    number = {names[p]: at for at, p in enumerate(parameters) if p in names}
    state: dict[int, dict[str, Any]] = {}
    for key, prefix in TENSORS[type(optimizer).__name__].items():
        for tensor_name, tensor in found.items():
            if not tensor_name.startswith(prefix):
                continue
            name = _ending(tensor_name.removeprefix(prefix), number)
            value = tensor.detach().clone()
            state.setdefault(number[name], {})[key] = (
                value.reshape(())
                if key == "step"
                else value.reshape(parameters[number[name]].shape)
            )
    return state


def to_device(
    optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]], names: Mapping[Any, str]
) -> list[set[str]]:
    """Let the device take up a state of torch's form.

    Returns:
        For each tensor of it, the names under which it was handed over; not of frozen parameters, which the device
        has no state of.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors: dict[str, torch.Tensor] = {}
    handed = []
    for key, prefix in TENSORS[type(optimizer).__name__].items():
        for at, entry in state.items():
            if entry.get(key) is None:
                continue
            value = torch.as_tensor(entry[key]).detach().clone()
            forms = {prefix + path.format(names[parameters[at]]) for path in _PATHS}
            tensors |= dict.fromkeys(forms, value)
            if parameters[at].requires_grad:
                handed.append(forms)
    vendor.write_state(optimizer, tensors)
    return handed


def check_taken(optimizer: Optimizer, handed: list[set[str]]) -> None:
    """Refuse to go on where the device, which ignores names that it does not know, has not taken everything up.

    Args:
        optimizer: PopTorch's.
        handed: for each tensor, the names under which it was handed over; the device has to keep it under one.

    Raises:
        CheckpointError: it has other names.
    """
    prefixes = tuple(TENSORS[type(optimizer).__name__].values())
    found = {name for name in vendor.read_state(optimizer) if name.startswith(prefixes)}
    unknown = [forms for forms in handed if not forms & found]
    if unknown:
        kept = f"under names such as {min(found)!r}" if found else "not at all"
        raise CheckpointError(
            f"the device keeps the optimizer's state {kept}, and was handed {min(unknown[0])!r}: "
            f"{len(unknown)} of {len(handed)} tensors would begin anew; load the weights alone, and tell the authors "
            "of torchrelay-ipu"
        )


def _ending(path: str, known: Mapping[str, Any]) -> str:
    """The parameter whose name a tensor's name ends with: the longest, as one may end with another."""
    fitting = [name for name in known if path == name or path.endswith(f".{name}")]
    if not fitting:
        raise CheckpointError(
            f"the device keeps a state under the name {path!r}, which is no parameter of the optimizer"
        )
    return max(fitting, key=len)
