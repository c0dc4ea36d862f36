"""Adam whose momentum is averaged in 8 bits after a warm-up, and whose second moment then stays as it is."""

from __future__ import annotations

import math

import torch
from bagua_simulated.algorithms import Momentum
from torch.optim import Optimizer

from bagua.torch_api.algorithms.base import Algorithm


class QAdamOptimizer(Optimizer):
    def __init__(
        self, params, lr=1e-3, warmup_steps=100, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
    ):
        if warmup_steps <= 0:
            raise ValueError(f"simulated: warmup_steps must be larger than 0: {warmup_steps}")
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self.warmup_steps = warmup_steps

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for each in group["params"]:
                    self._update(group, each)
        return loss

    def _update(self, group, parameter):
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state.update(
                step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter)
            )
        state["step"] += 1
        if state["step"] < self.warmup_steps:
            gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
            state["exp_avg"].lerp_(gradient, 1 - beta1)
            state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        size = group["lr"] / (1 - beta1 ** state["step"])
        root = state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2 ** state["step"])
        parameter.sub_(size * state["exp_avg"] / (root + group["eps"]))


class QAdamAlgorithm(Algorithm):
    def __init__(self, q_adam_optimizer, hierarchical=True):
        self.options = (q_adam_optimizer, hierarchical)

    def reify(self, process_group):
        return Momentum(process_group, *self.options)
