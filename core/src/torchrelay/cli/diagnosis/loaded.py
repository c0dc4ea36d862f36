"""The rest of the chain, for plugins that were loaded: their SDKs, their hardware, and whether they work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import importlib_metadata

from torchrelay.cli.diagnosis.chain import Diagnosis, absent_hardware, mend_target, misheard
from torchrelay.cli.diagnosis.examination import Item, examine
from torchrelay.plugin.records import Offer, Owner, Plugin
from torchrelay.plugin.registry import Registry
from torchrelay.plugin.scan import version_of
from torchrelay.plugin.specs import AcceleratorSpec, Hardware, Requirement, StrategySpec
from torchrelay.plugin.targets import missing, needs

IMPORT_BUDGET = 0.25
"""Seconds that importing a plugin module may take before it is called slow."""


@dataclass(frozen=True)
class Check:
    """A check of the machine that a plugin asked for; `complaint` is "" where all is well.

    What an `optional` one complains of breaks nothing.
    """

    name: str
    distribution: str
    description: str
    complaint: str
    optional: bool = False


def diagnose(
    plugin: Plugin, registry: Registry, hardware: Mapping[str, Hardware]
) -> tuple[Diagnosis, list[Check]]:
    """Follow a plugin to the end of the chain, and make the checks that it asks for.

    Args:
        plugin: a plugin that was loaded.
        registry: what it offers.
        hardware: what the probe of each accelerator found.
    """
    checks = _of(plugin.owner, registry.diagnostics)
    facts = Diagnosis(
        plugin=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        import_seconds=plugin.import_seconds,
        sdks=_sdks(plugin.owner, registry),
        notes=tuple(_notes(plugin, registry)),
    )
    unheard = [failure for failure in registry.failures if failure.owner == plugin.owner]
    if unheard:
        early: Diagnosis | None = replace(misheard(plugin, unheard), notes=facts.notes)
    else:
        early = _without_sdk(facts, registry) or _without_hardware(facts, registry, hardware)
    targets = [] if early else _targets(plugin.owner, registry)
    items = [Item("check", check.target) for check in checks]
    answers = examine([*items, *(Item("import", target) for target in targets)])
    made = [
        Check(check.name, plugin.distribution, check.description, answer, check.optional)
        for check, answer in zip(checks, answers, strict=False)
    ]
    faults = dict(zip(targets, answers[len(checks) :], strict=True))
    return early or _judged(facts, plugin, faults, made), made


def _judged(
    facts: Diagnosis, plugin: Plugin, faults: Mapping[str, str], checks: Iterable[Check]
) -> Diagnosis:
    """The last step: its targets are imported, and its checks find nothing."""
    for target, fault in faults.items():
        if fault:
            mend = mend_target(plugin.distribution, plugin.module.partition(".")[0], fault)
            cause = f"{target} cannot be imported: {fault}"
            return replace(facts, failed="usable", cause=cause, mend=mend, broken=True)
    for check in checks:
        if check.complaint and not check.optional:
            cause = f"its check {check.name} finds: {check.complaint}"
            return replace(facts, failed="usable", cause=cause, mend="see there", broken=True)
    return facts


def _without_sdk(facts: Diagnosis, registry: Registry) -> Diagnosis | None:
    """The diagnosis of a plugin of which nothing works for want of an SDK."""
    specs = _devices_and_strategies(Owner(facts.distribution, facts.version), registry)
    absent = [missing(spec.requires) for spec in specs]
    if not absent or not all(absent):
        return None
    wanted = dict.fromkeys(need for each in absent for need in each)
    modules = ", ".join(dict.fromkeys(need.module for need in wanted))
    return replace(
        facts,
        failed="SDK found",
        cause=f"needs {modules}, which is not here",
        mend="; ".join(dict.fromkeys(need.install for need in wanted)),
        broken=True,
    )


def _without_hardware(
    facts: Diagnosis, registry: Registry, hardware: Mapping[str, Hardware]
) -> Diagnosis | None:
    """The diagnosis of a plugin of which nothing has a device here."""
    owner = Owner(facts.distribution, facts.version)
    claims = [
        *((spec.accelerators, spec.refusals) for spec in _of(owner, registry.strategies)),
        *(((spec.name,), {}) for spec in _of(owner, registry.accelerators)),
    ]
    reasons = [absent_hardware(names, refusals, hardware) for names, refusals in claims]
    if not reasons or not all(reasons):
        return None
    cause = "; ".join(dict.fromkeys(reasons))
    return replace(facts, failed="hardware found", cause=cause, mend="run where there is some")


def _notes(plugin: Plugin, registry: Registry) -> Iterable[str]:
    if plugin.import_seconds > IMPORT_BUDGET:
        yield (
            f"slow: importing {plugin.module} takes {plugin.import_seconds:.2f} s, and every Trainer waits for it; "
            f"leave it out by TORCHRELAY_DISABLE_PLUGINS={plugin.name}, and tell its authors"
        )
    offered = _devices_and_strategies(plugin.owner, registry)
    # Where nothing works for want of an SDK, the diagnosis says so once.
    some_work = not all(missing(spec.requires) for spec in offered)
    for spec in offered:
        absent = missing(spec.requires)
        if absent and some_work:
            yield f"{spec.name} {needs(absent)}"
    for spec in _of(plugin.owner, registry.strategies):
        rivals = [
            offer.owner.distribution
            for offer in registry.strategies
            if offer.owner != plugin.owner
            and offer.spec.alias == spec.alias
            and _overlap(offer.spec, spec)
        ]
        if rivals:
            yield (
                f"alias {spec.alias!r} is provided by {' and '.join(rivals)} as well; write "
                f"strategy='{plugin.distribution}:{spec.alias}'"
            )


def _overlap(one: StrategySpec, other: StrategySpec) -> bool:
    """Whether two claims of a name are for the same accelerator, or both for all."""
    if one.accelerators and other.accelerators:
        return bool(set(one.accelerators) & set(other.accelerators))
    return not one.accelerators and not other.accelerators


def _targets(owner: Owner, registry: Registry) -> list[str]:
    """What the plugin offers that has its SDK, each target once."""
    usable = [
        spec for spec in _devices_and_strategies(owner, registry) if not missing(spec.requires)
    ]
    others: list[Any] = [
        *_of(owner, registry.environments),
        *_of(owner, registry.precisions),
        *_of(owner, registry.checkpoint_ios),
    ]
    return list(dict.fromkeys(spec.target for spec in [*usable, *others]))


def _devices_and_strategies(
    owner: Owner, registry: Registry
) -> list[AcceleratorSpec | StrategySpec]:
    return [*_of(owner, registry.strategies), *_of(owner, registry.accelerators)]


def _of(owner: Owner, offers: Iterable[Offer[Any]]) -> list[Any]:
    return [offer.spec for offer in offers if offer.owner == owner]


def _sdks(owner: Owner, registry: Registry) -> dict[str, str]:
    """Module -> version, of the SDKs that the plugin needs and that are here."""
    wanted = [need for spec in _devices_and_strategies(owner, registry) for need in spec.requires]
    return {need.module: _version(need) for need in dict.fromkeys(wanted) if not missing([need])}


def _version(requirement: Requirement) -> str:
    module = requirement.module.partition(".")[0]
    version = version_of(module)
    if version == "absent":  # the distribution has another name than its module
        owners = importlib_metadata.packages_distributions().get(module, [])
        version = version_of(owners[0]) if owners else "of unknown version"
    return version
