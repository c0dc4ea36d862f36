"""Asks every plugin what it offers, each hook behind a guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import pluggy

from torchrelay.errors import SpecError
from torchrelay.plugin.records import Offer, Plugin, PluginFailure, SpecT, Stage, cause_of
from torchrelay.plugin.specs import (
    AcceleratorSpec,
    CheckpointFormatSpec,
    CheckpointIOSpec,
    DiagnosticSpec,
    EnvironmentSpec,
    PrecisionSpec,
    Spec,
    StrategySpec,
)

KINDS: Mapping[str, type[Spec]] = MappingProxyType(
    {
        "torchrelay_strategies": StrategySpec,
        "torchrelay_accelerators": AcceleratorSpec,
        "torchrelay_cluster_environments": EnvironmentSpec,
        "torchrelay_precision_plugins": PrecisionSpec,
        "torchrelay_checkpoint_ios": CheckpointIOSpec,
        "torchrelay_checkpoint_formats": CheckpointFormatSpec,
        "torchrelay_diagnostics": DiagnosticSpec,
    }
)
"""The hooks that offer something, and what each must return."""


def collect(
    manager: pluggy.PluginManager, plugins: Iterable[Plugin]
) -> tuple[tuple[Offer[Spec], ...], tuple[PluginFailure, ...]]:
    """Call each plugin's hooks on their own, so that one which raises takes nothing else with it.

    Returns:
        what is offered, plugin by plugin, and a failure for each hook or spec that had to be left
        out.
    """
    offers: list[Offer[Spec]] = []
    failures: list[PluginFailure] = []
    for plugin in plugins:
        claimed: set[tuple[str, str, str]] = set()
        for hook, answer in _answers(manager, plugin.key):
            try:
                specs = list(answer())
            except Exception as error:
                failures.append(_failure(plugin, "hook", f"{hook}(): {cause_of(error)}"))
                continue
            for spec in specs:
                try:
                    claimed |= _claims(hook, spec, claimed)
                    offers.append(Offer(spec, plugin.owner))
                except SpecError as error:
                    failures.append(_failure(plugin, "spec", f"{hook}(): {error}"))
    return tuple(offers), tuple(failures)


def of_kind(offers: Iterable[Offer[Spec]], kind: type[SpecT]) -> tuple[Offer[SpecT], ...]:
    """The offers whose spec is of that kind."""
    return tuple(Offer(offer.spec, offer.owner) for offer in offers if isinstance(offer.spec, kind))


def _answers(
    manager: pluggy.PluginManager, key: str
) -> Iterator[tuple[str, Callable[[], Iterable[Spec]]]]:
    for hook in KINDS:
        for impl in getattr(manager.hook, hook).get_hookimpls():
            if impl.plugin_name == key:
                yield hook, impl.function


def _claims(
    hook: str, spec: object, before: set[tuple[str, str, str]]
) -> set[tuple[str, str, str]]:
    """What the spec claims: its name, for each accelerator or for all of them.

    Raises:
        SpecError: it is not what the hook returns, or its plugin has claimed the same before.
    """
    kind = KINDS[hook]
    if not isinstance(spec, kind):
        raise SpecError(f"returned an item of type {type(spec).__name__}, not {kind.__name__}")
    accelerators: Iterable[str] = ()
    if isinstance(spec, StrategySpec | PrecisionSpec):
        accelerators = spec.accelerators
    claims = {(hook, spec.name, accelerator) for accelerator in accelerators or ("any",)}
    twice = sorted(accelerator for _, _, accelerator in claims & before)
    if twice:
        raise SpecError(f"{spec.name!r} is offered twice for accelerator {', '.join(twice)}")
    return claims


def _failure(plugin: Plugin, stage: Stage, cause: str) -> PluginFailure:
    return PluginFailure(
        name=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        stage=stage,
        cause=cause,
    )
