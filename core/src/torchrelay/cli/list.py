"""`torchrelay list`: what can be used here, who brings it, and what is broken.

Imports neither torch nor a strategy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torchrelay.cli.diagnosis.chain import absent_hardware
from torchrelay.cli.tables import Table, show
from torchrelay.plugin.discovery import DISABLE_VARIABLE
from torchrelay.plugin.records import STAGES, Offer
from torchrelay.plugin.registry import Registry, get_registry
from torchrelay.plugin.specs import AcceleratorSpec, Hardware, StrategySpec
from torchrelay.plugin.targets import missing, needs, probe


@dataclass(frozen=True)
class StrategyRow:
    """A strategy as `torchrelay list` shows it; `reason` says why it is not usable here."""

    alias: str
    strategy: str
    accelerators: str
    distribution: str
    version: str
    usable: bool
    reason: str
    description: str


@dataclass(frozen=True)
class AcceleratorRow:
    """An accelerator as `torchrelay list` shows it; `reason` says why there is no device."""

    accelerator: str
    distribution: str
    version: str
    devices: int
    reason: str
    description: str


@dataclass(frozen=True)
class TroubleRow:
    """A plugin that was not loaded, or not wholly."""

    plugin: str
    distribution: str
    version: str
    stage: str
    cause: str


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "show every strategy, the distribution that brings it, and whether it can be used here"
    parser = commands.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables, or the JSON."""
    registry = get_registry()
    hardware = {offer.spec.name: probe(offer.spec) for offer in registry.accelerators}
    strategies = [strategy_row(offer, hardware) for offer in registry.strategies]
    accelerators = [accelerator_row(offer, hardware) for offer in registry.accelerators]
    troubles = trouble_rows(registry)
    if arguments.json:
        sections = {
            "strategies": [asdict(row) for row in strategies],
            "accelerators": [asdict(row) for row in accelerators],
            "troubles": [asdict(row) for row in troubles],
        }
        print(json.dumps(sections, indent=2))
    else:
        show([_strategies(strategies), _accelerators(accelerators), _troubles(troubles)])
    return 0


def strategy_row(offer: Offer[StrategySpec], hardware: Mapping[str, Hardware]) -> StrategyRow:
    """Judge a strategy.

    Args:
        offer: the strategy.
        hardware: what each accelerator's probe found.
    """
    spec = offer.spec
    reason = needs(missing(spec.requires)) or absent_hardware(
        spec.accelerators, spec.refusals, hardware
    )
    return StrategyRow(
        alias=spec.alias,
        strategy=spec.target.partition(":")[2],
        accelerators=", ".join(spec.accelerators) or _all_but(spec),
        distribution=offer.owner.distribution,
        version=offer.owner.version,
        usable=not reason,
        reason=reason,
        description=spec.description,
    )


def accelerator_row(
    offer: Offer[AcceleratorSpec], hardware: Mapping[str, Hardware]
) -> AcceleratorRow:
    """Describe an accelerator and what its probe found."""
    found = hardware[offer.spec.name]
    return AcceleratorRow(
        accelerator=offer.spec.name,
        distribution=offer.owner.distribution,
        version=offer.owner.version,
        devices=found.count,
        reason=found.reason,
        description=offer.spec.description,
    )


def trouble_rows(registry: Registry) -> list[TroubleRow]:
    """Every failure, then every plugin that is switched off."""
    failed = [
        TroubleRow(f.name, f.distribution, f.version, f.stage, f"{STAGES[f.stage]}: {f.cause}")
        for f in registry.failures
    ]
    disabled = [
        TroubleRow(d.name, d.distribution, d.version, "disabled", f"by {DISABLE_VARIABLE}")
        for d in registry.disabled
    ]
    return failed + disabled


def _all_but(spec: StrategySpec) -> str:
    return f"any but {', '.join(spec.refusals)}" if spec.refusals else "any"


def _strategies(rows: list[StrategyRow]) -> Table:
    return Table(
        "Strategies",
        ("alias", "class", "accelerators", "from", "usable here"),
        [
            (
                row.alias,
                row.strategy,
                row.accelerators,
                f"{row.distribution} {row.version}",
                "yes" if row.usable else f"no: {row.reason}",
            )
            for row in rows
        ],
    )


def _accelerators(rows: list[AcceleratorRow]) -> Table:
    return Table(
        "Accelerators",
        ("accelerator", "from", "devices here"),
        [
            (
                row.accelerator,
                f"{row.distribution} {row.version}",
                f"{row.devices}" + (f": {row.reason}" if row.reason else ""),
            )
            for row in rows
        ],
    )


def _troubles(rows: list[TroubleRow]) -> Table:
    return Table(
        "Broken or disabled plugins",
        ("plugin", "from", "cause"),
        [(row.plugin, f"{row.distribution} {row.version}".rstrip(), row.cause) for row in rows],
    )
