"""What cannot be done, known only inside the processes, and refused alike by all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay_bagua import vendor
from torchrelay_bagua.algorithms import Algorithm, AsyncAverage, QAdam

FORMATS = (torch.float32, torch.float16)
"""Floating-point formats that Bagua sends."""

ON_THE_HOST = (torch.optim.Adagrad, torch.optim.Adafactor)
"""Optimizers that count their steps on the CPU, whatever they are told."""


def group(name: str, given: Any) -> None:
    """Refuse a part of the ranks: collectives are of all of them.

    Raises:
        UnsupportedError: a group was given.
    """
    if given is not None:
        raise UnsupportedError(
            f"{name}(group={given!r}): BaguaStrategy communicates with all ranks; leave group out, or make groups with "
            "bagua.torch_api.communication.new_group and call Bagua yourself"
        )


def formats(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Refuse weights that Bagua does not send.

    Raises:
        UnsupportedError: names one.
    """
    for name, parameter in parameters:
        if parameter.dtype not in FORMATS:
            raise UnsupportedError(
                f"the weight {name!r} is {parameter.dtype}, and Bagua sends 16- and 32-bit floats, bfloat16 not among "
                "them; take precision='32-true' or '16-true', or strategy='ddp'"
            )


def optimizers(algorithm: Algorithm, given: Sequence[Optimizer]) -> None:
    """Refuse optimizers that do not go with an algorithm.

    Raises:
        ConfigurationError: QAdam without its optimizer, or the other way round.
        UnsupportedError: state that Bagua could not send when a warm-up ends.
    """
    ours = [vendor.is_qadam(optimizer) for optimizer in given]
    if isinstance(algorithm, QAdam) and ours != [True]:
        names = ", ".join(type(optimizer).__name__ for optimizer in given) or "none"
        raise ConfigurationError(
            f"algorithm='qadam' needs exactly one QAdamOptimizer of bagua.torch_api.algorithms.q_adam, and "
            f"configure_optimizers gave {names}; return QAdamOptimizer(self.parameters(), lr=..., warmup_steps=100)"
        )
    if not isinstance(algorithm, QAdam) and any(ours):
        raise ConfigurationError(
            f"QAdamOptimizer stops to read gradients after its warm-up, and algorithm={algorithm.name!r} sends no "
            "momentum; take strategy='bagua_qadam', or torch.optim.AdamW"
        )
    if isinstance(algorithm, AsyncAverage) and algorithm.warmup_steps:
        _refuse_steps_on_the_host(given)


def _counts_on_the_host(group: dict[str, Any]) -> bool:
    """Whether it could count on the GPU, and does not."""
    return group.get("capturable") is False and not group.get("fused")


def _refuse_steps_on_the_host(given: Sequence[Optimizer]) -> None:
    """When its warm-up ends, the algorithm sends the optimizer's state again, from GPU to GPU."""
    for optimizer in given:
        if isinstance(optimizer, ON_THE_HOST) or any(
            map(_counts_on_the_host, optimizer.param_groups)
        ):
            raise UnsupportedError(
                f"{type(optimizer).__name__} counts its steps on the CPU, and Bagua sends the optimizer's state by GPU "
                "when the warm-up of 'async' ends; take one with "
                "capturable=True, SGD, or AsyncAverage(warmup_steps=0)"
            )
