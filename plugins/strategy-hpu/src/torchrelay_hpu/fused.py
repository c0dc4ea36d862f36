"""torch's AdamW as the bridge's FusedAdamW, and the state of that by name."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from torchrelay.errors import UnsupportedError
from torchrelay_hpu import vendor

OPTIONS = ("lr", "betas", "eps", "weight_decay")


def fused(optimizer: Optimizer) -> Optimizer:
    """The bridge's AdamW in the place of torch's.

    Raises:
        UnsupportedError: another optimizer, or options that the bridge's has not.
    """
    if vendor.is_fused_adamw(optimizer):
        return optimizer
    if type(optimizer) is not AdamW:
        raise UnsupportedError(
            f"fused_adamw=True: {type(optimizer).__name__} is not torch.optim.AdamW, for which alone the bridge's "
            "FusedAdamW can stand; return AdamW, or leave fused_adamw out"
        )
    for flag in ("amsgrad", "maximize"):
        if any(group.get(flag) for group in optimizer.param_groups):
            raise UnsupportedError(
                f"fused_adamw=True: FusedAdamW has no {flag}=True; leave one of them out"
            )
    groups = [{"params": group["params"], **_options(group)} for group in optimizer.param_groups]
    made: Optimizer = vendor.fused_adamw(groups, _options(optimizer.param_groups[0]))
    for group, old in zip(made.param_groups, optimizer.param_groups, strict=True):
        # What schedulers keep in a group, such as the initial learning rate.
        added = old.keys() - optimizer.defaults.keys() - {"params"}
        group.update({key: old[key] for key in added})
    return made


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(group[name]) if isinstance(group[name], torch.Tensor) else group[name]
        for name in OPTIONS
    }


def to_torch(state: dict[str, Any]) -> dict[str, Any]:
    """A state of FusedAdamW as torch's AdamW has it: updates are counted for each parameter, not for each group."""
    counted = {}
    groups = []
    for group in state["param_groups"]:
        updates = group.get("step", 0)
        groups.append({key: value for key, value in group.items() if key != "step"})
        for key in group["params"]:
            if key in state["state"]:
                counted[key] = {**state["state"][key], "step": torch.tensor(float(updates))}
    return {**state, "state": counted, "param_groups": groups}


def from_torch(state: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `to_torch`: a group has made as many updates as any of its parameters."""
    groups = []
    for group in state["param_groups"]:
        steps = [
            state["state"][key].get("step", 0) for key in group["params"] if key in state["state"]
        ]
        groups.append({**group, "step": int(max(map(float, steps), default=0))})
    return {**state, "param_groups": groups}
