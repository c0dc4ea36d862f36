"""What a training step returns."""

from __future__ import annotations

from typing import Any

import torch

from torchrelay.errors import ConfigurationError


def loss_of(outputs: Any) -> torch.Tensor | None:
    """The loss that a training step returned: a tensor, the "loss" of a dict, or None for no update.

    Raises:
        ConfigurationError: it returned something else.
    """
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if outputs is None or (isinstance(loss, torch.Tensor) and loss.numel() == 1):
        return loss
    if isinstance(loss, torch.Tensor):
        raise ConfigurationError(
            f"training_step returned a loss of shape {tuple(loss.shape)}; reduce it to one number, as loss.mean() does"
        )
    raise ConfigurationError(
        f"training_step returned {type(outputs).__name__}; return the loss (a 0-dim tensor), a dict whose 'loss' is "
        "one, or None to skip the update"
    )


def told(outputs: Any, divisor: int) -> dict[str, Any]:
    """What `on_train_batch_end` is given: the outputs as a dict without its graph, empty where the step was skipped.

    Args:
        outputs: what the step returned.
        divisor: what the loss was divided by, for accumulation.
    """
    if outputs is None:
        return {}
    given: dict[str, Any] = detached(outputs if isinstance(outputs, dict) else {"loss": outputs})
    if divisor != 1:
        given["loss"] = given["loss"] / divisor
    return given


def detached(outputs: Any) -> Any:
    """The same without its graph, for hooks."""
    if isinstance(outputs, torch.Tensor):
        return outputs.detach()
    if isinstance(outputs, dict):
        return {name: detached(value) for name, value in outputs.items()}
    return outputs
