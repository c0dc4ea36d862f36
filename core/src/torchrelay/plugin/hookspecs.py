"""Every hook that a plugin may implement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from torchrelay.plugin.specs import (
    AcceleratorSpec,
    CheckpointIOSpec,
    DiagnosticSpec,
    EnvironmentSpec,
    PrecisionSpec,
    StrategySpec,
)

if TYPE_CHECKING:
    from torchrelay.strategies.strategy import Strategy

PROJECT = "torchrelay"

hookspec = pluggy.HookspecMarker(PROJECT)


@hookspec
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """Return the strategies that the distribution provides."""
    raise NotImplementedError


@hookspec
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """Return the kinds of device that the distribution provides."""
    raise NotImplementedError


@hookspec
def torchrelay_cluster_environments() -> Iterable[EnvironmentSpec]:
    """Return the cluster environments that the distribution can detect."""
    raise NotImplementedError


@hookspec
def torchrelay_precision_plugins() -> Iterable[PrecisionSpec]:
    """Return the precisions that the distribution provides."""
    raise NotImplementedError


@hookspec
def torchrelay_checkpoint_ios() -> Iterable[CheckpointIOSpec]:
    """Return the ways of writing checkpoints that the distribution provides."""
    raise NotImplementedError


@hookspec
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Return the checks that the distribution wants made of the machine."""
    raise NotImplementedError


@hookspec
def torchrelay_before_launch(strategy: Strategy) -> None:
    """Observe a strategy in the launching process, before any other process is started."""


@hookspec
def torchrelay_after_setup(strategy: Strategy) -> None:
    """Observe a strategy in each process, once module and optimizers are set up."""


@hookspec
def torchrelay_on_exception(strategy: Strategy, error: BaseException) -> None:
    """Observe an exception in the process that raised it; no collective may be called."""


@hookspec
def torchrelay_after_teardown(strategy: Strategy) -> None:
    """Observe a strategy in each process, after it has been torn down."""
