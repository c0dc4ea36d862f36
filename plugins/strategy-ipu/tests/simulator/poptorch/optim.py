"""Simulated: optimizers whose state comes back from the device."""

from __future__ import annotations

from typing import Any

import torch

PREFIXES = {
    "SGD": {"momentum_buffer": "Accl1___"},
    "Adam": {"exp_avg": "Accl1___", "exp_avg_sq": "Accl2___", "step": "Step___"},
    "AdamW": {"exp_avg": "Accl1___", "exp_avg_sq": "Accl2___", "step": "Step___"},
    "RMSprop": {},
}
"""Optimizer -> torch's name of a state -> the prefix of its tensor's name on the device."""


def _given(arguments: dict[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    skip = {"self", "__class__", *own}
    return {name: v for name, v in arguments.items() if name not in skip and v is not None}


class Optimizer:
    def __init__(self, max_grad_norm: float | None) -> None:
        self.max_grad_norm = float("inf") if max_grad_norm is None else max_grad_norm
        self._state_dict: dict[str, Any] = {"ipu_state": None, "ipu_param": None}

    def state_dict(self):
        return self.get_state_dict()

    def load_state_dict(self, state):
        torch.optim.Optimizer.load_state_dict(self, state)
        self.set_state_dict(state)

    def get_state_dict(self):
        return {**torch.optim.Optimizer.state_dict(self), **self._state_dict}

    def set_state_dict(self, state):
        if not state:
            raise RuntimeError("Cannot load optimizer state dictionary because it is empty.")
        if not ("ipu_state" in state and "ipu_param" in state):
            raise RuntimeError("Only IPU optimizer states can be loaded onto the IPU.")
        self._state_dict = {name: state[name] for name in ("ipu_state", "ipu_param")}

    def has_state(self):
        return all(each is not None for each in self._state_dict.values())


_ACCUMULATORS = (
    "accum_type",
    "first_order_momentum_accum_type",
    "second_order_momentum_accum_type",
)


class SGD(Optimizer, torch.optim.SGD):
    def __init__(
        self, params, lr, momentum=None, dampening=None, weight_decay=None, nesterov=None, maximize=None, foreach=None,
        differentiable=None, loss_scaling=None, velocity_scaling=None, use_combined_accum=None, accum_type=None,
        velocity_accum_type=None, max_grad_norm=None,
    ):  # fmt: skip
        own = (
            *("loss_scaling", "velocity_scaling", "use_combined_accum", "accum_type"),
            *("velocity_accum_type", "max_grad_norm", "own"),
        )
        torch.optim.SGD.__init__(self, **_given(locals(), own))
        Optimizer.__init__(self, max_grad_norm)


class Adam(Optimizer, torch.optim.Adam):
    def __init__(
        self, params, lr=None, betas=None, eps=None, weight_decay=None, amsgrad=None, foreach=None, maximize=None,
        capturable=None, differentiable=None, fused=None, loss_scaling=None, accum_type=None,
        first_order_momentum_accum_type=None, second_order_momentum_accum_type=None, max_grad_norm=None,
    ):  # fmt: skip
        own = ("loss_scaling", *_ACCUMULATORS, "max_grad_norm", "own")
        torch.optim.Adam.__init__(self, **_given(locals(), own))
        Optimizer.__init__(self, max_grad_norm)


class AdamW(Optimizer, torch.optim.AdamW):
    def __init__(
        self, params, lr=None, betas=None, eps=None, weight_decay=None, amsgrad=None, maximize=None, foreach=None,
        capturable=None, differentiable=None, fused=None, loss_scaling=None, bias_correction=None, accum_type=None,
        first_order_momentum_accum_type=None, second_order_momentum_accum_type=None, max_grad_norm=None,
    ):  # fmt: skip
        own = ("loss_scaling", "bias_correction", *_ACCUMULATORS, "max_grad_norm", "own")
        torch.optim.AdamW.__init__(self, **_given(locals(), own))
        Optimizer.__init__(self, max_grad_norm)


class RMSprop(Optimizer, torch.optim.RMSprop):
    def __init__(
        self, params, lr=None, alpha=None, eps=None, weight_decay=None, momentum=None, centered=None, foreach=None,
        maximize=None, differentiable=None, loss_scaling=None, accum_type=None, first_order_momentum_accum_type=None,
        second_order_momentum_accum_type=None, use_tf_variant=None,
    ):  # fmt: skip
        own = ("loss_scaling", *_ACCUMULATORS, "use_tf_variant", "own")
        torch.optim.RMSprop.__init__(self, **_given(locals(), own))
        Optimizer.__init__(self, None)
