"""Every hook that a plugin may implement.

A hook is a function of the plugin module, decorated with `torchrelay.plugin.hookimpl`. Six hooks *offer*: they take
nothing and return specs. Four *observe* a run: they are told of it and change nothing. An observer may leave out
arguments; between plugins no order is promised. A hook that this torchrelay does not know, or an argument that it does
not give, is an error that takes the whole plugin with it; `hookimpl(optionalhook=True)` lets an older torchrelay pass
over a newer hook.

`docs/hooks.md` is made of the docstrings below.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from torchrelay.plugin.specs import (
    AcceleratorSpec,
    CheckpointFormatSpec,
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
    """Return the strategies that the distribution provides.

    Called: once, when a name is first looked up: by a command, by a Trainer, by an import of a strategy's class. A
        target is imported when its alias is chosen, and by no command but `doctor`.
    Where: in every process that does so, launched ones too, before anything is connected. On a laptop without the
        hardware as well: it must not look for any.
    Returns: any iterable, a generator too; none at all is no error.
    If it raises: the hook is left out, and `torchrelay list` and `doctor` say so; the plugin's other hooks are heard.
        What is no StrategySpec, or claims an alias twice for one accelerator, is left out alone.
    """
    raise NotImplementedError


@hookspec
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """Return the kinds of device that the distribution provides.

    Called: with `torchrelay_strategies`. A probe runs when devices are counted: by `list`, `doctor` and `explain`,
        and when a Trainer is made that has to choose.
    Where: in every process that looks a name up; a probe before any process is launched, so it must leave the driver
        as it is: a forked child has to use the device afterwards.
    Returns: any iterable. A probe that raises finds no device, and its message is the reason.
    If it raises: as `torchrelay_strategies`.
    """
    raise NotImplementedError


@hookspec
def torchrelay_cluster_environments() -> Iterable[EnvironmentSpec]:
    """Return the cluster environments that the distribution can detect.

    Called: with `torchrelay_strategies`. Each target's `detect` is asked when a Trainer is made, highest priority
        first, until one says yes.
    Where: in every process of a cluster's job, before torch is needed: the target's module imports no torch.
    Returns: any iterable.
    If it raises: as `torchrelay_strategies`.
    """
    raise NotImplementedError


@hookspec
def torchrelay_precision_plugins() -> Iterable[PrecisionSpec]:
    """Return the precisions that the distribution provides.

    Called: with `torchrelay_strategies`. A target is imported when its name is chosen.
    Where: in every process that looks a name up.
    Returns: any iterable. A name of core's may be claimed for accelerators of one's own.
    If it raises: as `torchrelay_strategies`.
    """
    raise NotImplementedError


@hookspec
def torchrelay_checkpoint_ios() -> Iterable[CheckpointIOSpec]:
    """Return the ways of writing checkpoints that the distribution provides.

    Called: with `torchrelay_strategies`. A target is imported when its name is chosen.
    Where: in every process that looks a name up.
    Returns: any iterable.
    If it raises: as `torchrelay_strategies`.
    """
    raise NotImplementedError


@hookspec
def torchrelay_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:
    """Return the forms of checkpoint that the distribution's backend writes by its own means.

    Called: with `torchrelay_strategies`. A target is imported when a checkpoint of its form is converted.
    Where: in every process that looks a name up; the functions in that of `torchrelay checkpoint convert`.
    Returns: any iterable. A path is read by the first form that recognizes it.
    If it raises: as `torchrelay_strategies`.
    """
    raise NotImplementedError


@hookspec
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Return the checks that the distribution wants made of the machine.

    Called: with `torchrelay_strategies`. The checks themselves run in `torchrelay doctor` alone; those that several
        backends need are in `torchrelay.plugin.checks`.
    Where: in every process that looks a name up; the checks in that of the command.
    Returns: any iterable. A check returns None, or one line: what is wrong, and the command that mends it.
    If it raises: as `torchrelay_strategies`. A check that raises has found what it raises.
    """
    raise NotImplementedError


@hookspec
def torchrelay_before_launch(strategy: Strategy) -> None:
    """Observe a strategy before processes are started.

    Called: once for each fit, validate, test and predict, after everything that can be refused has been.
    Where: in the process that calls it. Where the script runs again in each process, or a cluster has made them, that
        is every rank; where processes are spawned or forked, it is their parent alone.
    Args:
        strategy: bound to its components; it has no module yet, and no device has been touched.
    Returns: nothing.
    If it raises: a RuntimeWarning names the plugin, other plugins are told, and the run goes on.
    """


@hookspec
def torchrelay_after_setup(strategy: Strategy) -> None:
    """Observe a strategy once module and optimizers are set up.

    Called: once for each fit, validate, test and predict, before a checkpoint is restored.
    Where: in each process of the run, connected. No collective may be called: a rank where the plugin is missing, or
        raises, would leave the others waiting.
    Args:
        strategy: set up; outside of fit it has no optimizers.
    Returns: nothing.
    If it raises: as `torchrelay_before_launch`.
    """


@hookspec
def torchrelay_on_exception(strategy: Strategy, error: BaseException) -> None:
    """Observe an exception.

    Called: after the strategy's own `on_exception`, before the callbacks' and before teardown; not if that one
        raises. KeyboardInterrupt and SystemExit are told of too.
    Where: in the process that raised, alone. No collective may be called: the other ranks may be anywhere.
    Args:
        strategy: as far as it came; it may have no module.
        error: what was raised.
    Returns: nothing.
    If it raises: as `torchrelay_before_launch`; the user sees the first error.
    """


@hookspec
def torchrelay_after_teardown(strategy: Strategy) -> None:
    """Observe a strategy after it has been torn down.

    Called: once for each fit, validate, test and predict, after an exception too; not if the teardown itself raises.
    Where: in each process of the run, parted from the others; not in one that was killed.
    Args:
        strategy: its module, if there is one, is on the CPU.
    Returns: nothing.
    If it raises: as `torchrelay_before_launch`.
    """
