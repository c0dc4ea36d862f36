"""Simulated: graphs that are captured once for each shape, and run again on the memory of the first time."""

from __future__ import annotations

from functools import wraps

import torch
from torch.utils._pytree import tree_map

replays: list[str] = []
"""Which graphs were run again."""


def wrap_in_hpu_graph(
    module, asynchronous=False, disable_tensor_cache=False, dry_run=False, max_graphs=None
):
    """Let a module's forward be captured and run again; each run writes into the outputs of the first."""
    cache = {}
    original = module.forward

    @wraps(original)
    def forward(*args, **kwargs):
        key = str(tree_map(_form, (args, kwargs)))
        found = original(*args, **kwargs)
        if key not in cache:
            cache[key] = found
            return found
        replays.append(type(module).__name__)
        tree_map(_write, cache[key], found)
        return cache[key]

    module.forward = forward
    module.clear_inputs = lambda: None
    module.clear_cache = cache.clear
    return module


def _form(value):
    return (tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value


def _write(kept, found):
    if isinstance(kept, torch.Tensor):
        with torch.no_grad():
            kept.copy_(found)
    return kept
