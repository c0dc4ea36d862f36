"""grad_norm: how large the gradients are."""

from __future__ import annotations

import torch
from torch import nn

from torchrelay.errors import ConfigurationError


def grad_norm(
    module: nn.Module, norm_type: float | str, group_separator: str = "/"
) -> dict[str, torch.Tensor]:
    """The norm of each parameter's gradient, and of all of them as one vector; for `log_dict`.

    Args:
        module: whose parameters; those without a gradient are left out.
        norm_type: the p of the p-norm, or "inf".
        group_separator: stands between "grad_P_norm" and the parameter's name.

    Returns:
        `grad_P_norm/NAME` for each, and `grad_P_norm_total` if there is any (0-dim).

    Raises:
        ConfigurationError: `norm_type` is not above 0.
    """
    p = float(norm_type)
    if not p > 0:
        raise ConfigurationError(
            f"grad_norm(..., norm_type={norm_type!r}): must be above 0, or 'inf'"
        )
    norms = {
        f"grad_{p}_norm{group_separator}{name}": torch.linalg.vector_norm(parameter.grad, p)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if norms:
        each = torch.stack([norm.to(next(iter(norms.values())).device) for norm in norms.values()])
        norms[f"grad_{p}_norm_total"] = torch.linalg.vector_norm(each, p)
    return norms
