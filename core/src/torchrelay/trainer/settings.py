"""torch's settings that hold for the whole process, as a run wants them, and put back after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from torchrelay.errors import ConfigurationError, NonFiniteLossError

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_DETERMINISTIC = (
    ":4096:8"  # of the two values that NVIDIA gives, the faster: 8 buffers of 4 MiB
)


def check(deterministic: Any, benchmark: Any, detect_anomaly: Any = False) -> None:
    """Refuse values that the settings do not have, and those that contradict each other.

    Raises:
        ConfigurationError: there are such.
    """
    if not isinstance(deterministic, (bool, type(None))) and deterministic != "warn":
        raise ConfigurationError(
            f"deterministic={deterministic!r} must be True, False, 'warn' or None"
        )
    if not isinstance(benchmark, (bool, type(None))):
        raise ConfigurationError(f"benchmark={benchmark!r} must be True, False or None")
    if not isinstance(detect_anomaly, bool):
        raise ConfigurationError(f"detect_anomaly={detect_anomaly!r} must be True or False")
    if deterministic is True and benchmark:
        raise ConfigurationError(
            "deterministic=True and benchmark=True contradict each other: the benchmark takes whichever algorithm was "
            "fastest, which differs from run to run; leave one of them out, or take deterministic='warn'"
        )


@contextmanager
def runtime(
    deterministic: bool | str | None = None,
    benchmark: bool | None = None,
    detect_anomaly: bool = False,
) -> Iterator[None]:
    """Let torch's settings be those of a run inside; what was there is put back.

    Args:
        deterministic: use deterministic algorithms, and fail where there are none ("warn": warn of it); None leaves
            the setting as it is.
        benchmark: let cuDNN try which algorithm is fastest; None leaves that as it is, or without it when
            `deterministic` is asked for.
        detect_anomaly: let backward name the operation that gave a NaN; False leaves the setting as it is.
    """
    if benchmark is None and deterministic:
        benchmark = False
    with ExitStack() as stack:
        if deterministic is not None:
            stack.enter_context(_deterministic(bool(deterministic), deterministic == "warn"))
        if benchmark is not None:
            stack.enter_context(_benchmark(benchmark))
        if detect_anomaly:
            stack.enter_context(torch.autograd.set_detect_anomaly(True))
        yield


@contextmanager
def _deterministic(on: bool, warn_only: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with ExitStack() as stack:
        if on:
            stack.enter_context(_cublas_workspace())
        torch.use_deterministic_algorithms(on, warn_only=warn_only)
        stack.callback(torch.use_deterministic_algorithms, before, warn_only=warned_only)
        yield


@contextmanager
def _cublas_workspace() -> Iterator[None]:
    """Give cuBLAS the workspace with which it is deterministic, unless the user has said which.

    cuBLAS documents the variable under "Results reproducibility". torch refuses cuBLAS without it when algorithms must
    be deterministic.
    """
    if CUBLAS_VARIABLE in os.environ:
        yield
        return
    os.environ[CUBLAS_VARIABLE] = CUBLAS_DETERMINISTIC
    try:
        yield
    finally:
        os.environ.pop(CUBLAS_VARIABLE, None)


@contextmanager
def _benchmark(on: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def check_finite(loss: torch.Tensor, epoch: int, batch_idx: int, rank: int) -> None:
    """Refuse to go on with a loss that is no number; waits for the device.

    Args:
        loss: of one element.
        epoch: in which it was computed, from 0.
        batch_idx: from which batch, from 0.
        rank: on which global rank.

    Raises:
        NonFiniteLossError: it is NaN or infinite.
    """
    if not torch.isfinite(loss).all():
        raise NonFiniteLossError(
            f"the loss is {loss.item()} in epoch {epoch}, batch {batch_idx}, rank {rank}; look at that batch for "
            "values that are not finite, or lower the learning rate, clip gradients (gradient_clip_val), or take "
            "precision='bf16-mixed' or '32-true' if it is '16-mixed'"
        )
