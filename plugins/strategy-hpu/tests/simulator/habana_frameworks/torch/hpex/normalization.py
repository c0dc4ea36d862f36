"""Simulated: clipping by norm in one operation."""

from __future__ import annotations

import torch

from habana_frameworks.torch.core import mark_step
from habana_frameworks.torch.utils.internal import is_lazy

clipped: list[float] = []
"""The norms to which was clipped."""


class FusedClipNorm:
    """Clips to a norm that is on the device from the beginning."""

    def __init__(self, parameters, max_norm):
        self.dtype = next(iter(parameters)).dtype
        self.max_norm = max_norm

    def clip_norm(self, parameters):
        if is_lazy():
            mark_step()
        clipped.append(self.max_norm)
        found = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        if is_lazy():
            mark_step()
        return found
