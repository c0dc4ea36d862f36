"""Simulated: in lazy mode graphs are cut after each backward pass and after each update."""

from __future__ import annotations

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from habana_frameworks.torch.hpu.machine import events
from habana_frameworks.torch.utils.internal import is_lazy

_backward = torch.autograd.backward


def happened(event: str) -> None:
    """Note an event.

    Raises:
        RuntimeError: in lazy mode, something that needs a `mark_step` before it.
    """
    if is_lazy() and event in ("backward", "step") and events[-1:] in (["backward"], ["step"]):
        raise RuntimeError(
            f"simulated: {event} follows {events[-1]} without mark_step, in lazy mode"
        )
    events.append(event)


def backward(tensors, *args, **kwargs):
    several = [tensors] if isinstance(tensors, torch.Tensor) else tensors
    if any(tensor.device.type == "hpu" for tensor in several):
        happened("backward")
    return _backward(tensors, *args, **kwargs)


def _stepped(optimizer, args, kwargs):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(parameter.device.type == "hpu" for parameter in parameters):
        happened("step")
    elif events[-1:] == ["backward"] or events[-2:] == ["backward", "mark_step"]:
        raise RuntimeError(
            "simulated: the optimizer has parameters that the module left behind on the CPU"
        )


def watch() -> None:
    """Hear of backward passes and updates from now on."""
    torch.autograd.backward = backward
    register_optimizer_step_post_hook(_stepped)
