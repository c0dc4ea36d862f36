"""Simulated: AdamW in one operation, which counts updates for each group."""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer

from habana_frameworks.torch.core import mark_step
from habana_frameworks.torch.utils.internal import is_lazy


class FusedAdamW(Optimizer):
    """AdamW, whose epsilon is added before the bias is corrected."""

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.0,
        bias_correction=True,
        moments_dtype=None,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bias_correction": bias_correction
        }  # fmt: skip
        super().__init__(params, defaults)
        self.moments_dtype = moments_dtype

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if trained:
                group["step"] = group.get("step", 0) + 1
                for parameter in trained:
                    self._update(parameter, group)
        if is_lazy():
            mark_step()
        return loss

    def _update(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state.update(
                step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter)
            )
        first, second = group["betas"]
        size = group["lr"]
        if group.get("bias_correction", True):
            size *= math.sqrt(1 - second ** group["step"]) / (1 - first ** group["step"])
        parameter.mul_(1 - group["weight_decay"] * group["lr"])
        state["exp_avg"].mul_(first).add_(parameter.grad, alpha=1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
        parameter.addcdiv_(
            state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-size
        )
