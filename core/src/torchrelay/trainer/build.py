"""From a Trainer's arguments to a complete strategy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torchrelay.accelerators.accelerator import Accelerator
from torchrelay.checkpoint.checkpoint_io import CheckpointIO
from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.program import is_interactive
from torchrelay.errors import ConfigurationError, UnavailableError
from torchrelay.plugin.registry import Registry, get_registry
from torchrelay.plugin.targets import load_target
from torchrelay.precision.precision import Precision
from torchrelay.strategies.components import Parts
from torchrelay.strategies.strategy import Strategy
from torchrelay.trainer.needs import refuse_unsupported
from torchrelay.trainer.options import Options
from torchrelay.trainer.resolve import DeviceKind, Machine, Request, Resolution, resolve

PLUGIN_KINDS: dict[str, type] = {
    "precision": Precision,
    "cluster_environment": ClusterEnvironment,
    "checkpoint_io": CheckpointIO,
}


REQUEST_KINDS: dict[str, tuple[type, ...]] = {
    "strategy": (Strategy, str),
    "accelerator": (Accelerator, str),
    "precision": (Precision, str, int, type(None)),
}


def assemble(arguments: Mapping[str, Any], options: Options) -> tuple[Resolution, Strategy]:
    """From a Trainer's arguments to what will run, and the strategy that is complete.

    Raises:
        UserError: what is asked for cannot be had.
    """
    registry = get_registry()
    plugins = sort_plugins(arguments["plugins"], registry)
    if arguments["precision"] is not None and "precision" in plugins:
        raise ConfigurationError(
            f"precision is given twice: {arguments['precision']!r} and, in plugins, {plugins['precision']!r}; leave "
            "one of them out"
        )
    names = ("strategy", "accelerator", "devices", "num_nodes", "precision")
    request = Request(**{**{name: arguments[name] for name in names}, **plugins})
    check_kinds(request)
    machine = Machine(environ=os.environ, interactive=is_interactive())
    resolution = resolve(request, registry, machine)
    strategy = build(
        resolution,
        registry,
        checkpoint_io=request.checkpoint_io,
        sync_batchnorm=options.sync_batchnorm,
    )
    # First what cannot be at all, then how its processes would have to be started.
    refuse_unsupported(strategy, options)
    resolution.check_environment()
    return resolution, strategy


def check_kinds(request: Request) -> None:
    """Refuse an argument that is neither a name nor an instance.

    Raises:
        ConfigurationError: such as a class, or None for a strategy.
    """
    for name, kinds in REQUEST_KINDS.items():
        given = getattr(request, name)
        if isinstance(given, kinds):
            continue
        hint = "leave it out to let it be chosen"
        if isinstance(given, type) and issubclass(given, kinds[0]):
            hint = f"an instance is made by {given.__name__}(...)"
        raise ConfigurationError(
            f"{name}={given!r} is neither a name nor an instance of {kinds[0].__name__}; {hint}"
        )


def sort_plugins(plugins: Any, registry: Registry) -> dict[str, Any]:
    """The components of `Trainer(plugins=...)`, by kind.

    Args:
        plugins: a component or the name of one, or a list of them.
        registry: knows the names.

    Raises:
        ConfigurationError: something that is no component, or two of a kind.
    """
    items: Iterable[Any] = plugins if isinstance(plugins, (list, tuple)) else [plugins]
    found: dict[str, Any] = {}
    for item in items:
        if item is None:
            continue
        kind = _kind_of_name(item, registry) if isinstance(item, str) else _kind_of_instance(item)
        if kind in found:
            raise ConfigurationError(
                f"plugins has two of the kind {kind}: {found[kind]!r} and {item!r}; leave one out"
            )
        found[kind] = item
    return found


def _kind_of_instance(item: Any) -> str:
    for kind, base in PLUGIN_KINDS.items():
        if isinstance(item, base):
            return kind
    bases = ", ".join(base.__name__ for base in PLUGIN_KINDS.values())
    raise ConfigurationError(f"plugins has {item!r}, which is none of {bases}, nor the name of one")


def _kind_of_name(name: str, registry: Registry) -> str:
    if any(name == offer.spec.name for offer in registry.environments):
        return "cluster_environment"
    if any(name == offer.spec.name for offer in registry.checkpoint_ios):
        return "checkpoint_io"
    if any(name == offer.spec.name for offer in registry.precisions):
        return "precision"
    raise ConfigurationError(
        f"plugins has {name!r}, which is the name of no cluster environment, checkpoint IO or precision"
    )


def build(
    resolution: Resolution,
    registry: Registry,
    *,
    checkpoint_io: str | CheckpointIO | None = None,
    sync_batchnorm: bool = False,
) -> Strategy:
    """Make the components that were chosen and the strategy that they complete.

    Raises:
        UserError: a component cannot be had here.
    """
    strategy = _strategy(resolution)
    strategy.bind(
        Parts(
            accelerator=_accelerator(resolution.accelerator),
            precision_plugin=_precision(resolution.precision),
            checkpoint_io=_checkpoint_io(checkpoint_io, registry),
            cluster_environment=resolution.cluster_environment,
            devices=resolution.devices,
            num_nodes=resolution.num_nodes,
            sync_batchnorm=sync_batchnorm,
        )
    )
    return strategy


def _strategy(resolution: Resolution) -> Strategy:
    chosen = resolution.strategy
    if isinstance(chosen, Strategy):
        return chosen
    made = load_target(chosen.spec.target)(**chosen.spec.presets)
    if not isinstance(made, Strategy):
        raise ConfigurationError(
            f"strategy {chosen.spec.alias!r} of {chosen.owner} is a {type(made).__name__}, which is no "
            "torchrelay.strategies.Strategy; tell its authors"
        )
    return made


def _accelerator(kind: DeviceKind) -> Accelerator:
    if kind.instance is not None:
        return kind.instance
    if kind.spec is None:
        raise ConfigurationError(f"accelerator {kind.name!r} has neither a spec nor an instance")
    accelerator: Accelerator = load_target(kind.spec.target)()
    if not accelerator.is_available():
        raise UnavailableError(
            f"accelerator={kind.name!r}: the hardware is there, but torch cannot use it; check that the installed "
            "torch is built for it and that its driver is recent enough"
        )
    return accelerator


def _precision(chosen: Any) -> Precision:
    if isinstance(chosen, Precision):
        return chosen
    made: Precision = load_target(chosen.spec.target)(**chosen.spec.presets)
    return made


def _checkpoint_io(chosen: str | CheckpointIO | None, registry: Registry) -> CheckpointIO:
    if isinstance(chosen, CheckpointIO):
        return chosen
    offer = registry.checkpoint_io(chosen or "torch")
    made: CheckpointIO = load_target(offer.spec.target)()
    return made
