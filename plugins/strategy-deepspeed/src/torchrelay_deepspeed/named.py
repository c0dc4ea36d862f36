"""Who gives the optimizer and the learning rate scheduler: the user's module or DeepSpeed's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay_deepspeed.raw import RawConfig


def check_given_once(
    config: RawConfig, optimizers: Sequence[Any], schedulers: Sequence[Any]
) -> None:
    """Refuse what is given twice, or not at all; alike on every rank.

    Args:
        config: DeepSpeed's own.
        optimizers: those of `configure_optimizers`.
        schedulers: likewise.

    Raises:
        ConfigurationError: both give an optimizer, or neither does; or both give a scheduler.
    """
    if not optimizers and not config.optimizer:
        raise ConfigurationError(
            "configure_optimizers returns no optimizer, and DeepSpeed's configuration names none; return one, or "
            'write "optimizer": {"type": "AdamW", "params": {"lr": 0.001}} there'
        )
    for given, named, key in (
        (optimizers, config.optimizer, "optimizer.type"),
        (schedulers, config.scheduler, "scheduler.type"),
    ):
        if given and named:
            raise ConfigurationError(
                f"configure_optimizers returns {type(given[0]).__name__}, and {config.says(key)}; "
                "leave one of them out"
            )
