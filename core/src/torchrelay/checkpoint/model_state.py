"""Loading a module's state, and saying in one line why it does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from torchrelay.errors import CheckpointError

_SHOWN = 3


def load_model_state(
    module: nn.Module, state_dict: Mapping[str, Any], *, strict: bool = True
) -> None:
    """Load a state by parameter name.

    Args:
        module: whose parameters and buffers are overwritten.
        state_dict: name -> tensor.
        strict: refuse missing and unexpected names; shapes must agree in any case.

    Raises:
        CheckpointError: the state is another model's; the message names the first few keys.
    """
    try:
        module.load_state_dict(state_dict, strict=strict)
    except RuntimeError as error:
        differences = _differences(module, state_dict, strict) or _one_line(error)
        raise _misfit(module, differences) from error


def check_model_state(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Compare names and shapes with the module's, and load nothing.

    Raises:
        CheckpointError: the state is another model's; the message names the first few keys.
    """
    differences = _differences(module, state_dict, strict=True)
    if differences:
        raise _misfit(module, differences)


def _misfit(module: nn.Module, differences: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint does not fit {type(module).__name__}: {differences}; load it into the model that it was saved "
        "from, or what fits of it by module.load_state_dict(..., strict=False)"
    )


def _differences(module: nn.Module, state: Mapping[str, Any], strict: bool) -> str:
    own = module.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and getattr(state[name], "shape", None) != getattr(tensor, "shape", None)
    ]
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    found = {"of another shape": shapes}
    if strict:
        found |= {"missing": missing, "unexpected": unexpected}
    return "; ".join(f"{what} {some(names)}" for what, names in found.items() if names)


def some(names: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
