"""Gives a module back as it was before an engine had it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_SHORT = (torch.bfloat16, torch.float16)

# What DeepSpeed 0.19.8 puts into a module beside what it calls `ds_...`; a next engine would take some for its own.
_MARKS = (
    "_ds_child_entered",
    "_external_params",
    "all_parameters",
    "applied_pre_backward_ref_cnt",
    "post_bwd_fn",
    "pre_bwd_fn",
    "to_empty",
)


def release(module: nn.Module, weights: Mapping[str, torch.Tensor] | None) -> None:
    """Take from a module what DeepSpeed has put into it, and bring it to the CPU in fp32.

    Args:
        module: the user's; its engine is destroyed.
        weights: whole, by name; None where nobody gathered them, and parameters keep what this rank has.
    """
    for part in module.modules():
        _restore_container(part)
    for name, parameter in module.named_parameters():
        _forget(parameter)
        parameter.grad = None
        if weights is not None and name in weights:
            parameter.data = weights[name].to("cpu")
    for name, buffer in module.named_buffers():
        if weights is not None and name in weights:
            buffer.data = weights[name].to("cpu")
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.to("cpu", torch.float32 if tensor.dtype in _SHORT else None)


def _restore_container(part: nn.Module) -> None:
    """DeepSpeed puts a dict of its own in the place of a module's parameters, at stage 3."""
    if "_original_parameters" in vars(part):
        part._parameters = dict(part._parameters)  # noqa: SLF001 - where DeepSpeed put its own
        del part._original_parameters  # noqa: SLF001
    for name in [name for name in vars(part) if name.startswith("ds_") or name in _MARKS]:
        delattr(part, name)


def _forget(parameter: nn.Parameter) -> None:
    """Whoever partitions parameters next takes these marks for its own."""
    for name in list(vars(parameter)):
        delattr(parameter, name)
