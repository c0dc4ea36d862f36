"""`torchrelay doctor`: how far every plugin comes, what is in its way, and the command that mends it.

Imports neither torch nor a strategy itself: what plugins offer is imported in processes of their own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torchrelay.cli.diagnosis.chain import Diagnosis, outside
from torchrelay.cli.diagnosis.loaded import Check, diagnose
from torchrelay.cli.diagnosis.machine import Fact, facts
from torchrelay.cli.tables import Table, show
from torchrelay.errors import UnknownNameError
from torchrelay.plugin.catalogue import backend_of_alias
from torchrelay.plugin.records import Plugin, normalized
from torchrelay.plugin.registry import Registry, get_registry
from torchrelay.plugin.targets import probe


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "find out what keeps a plugin from working here, and how to mend it"
    parser = commands.add_parser(
        "doctor",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Ends with exit code 1 if something that is installed is broken.",
    )
    parser.add_argument(
        "plugins",
        nargs="*",
        metavar="PLUGIN",
        help="look at these alone: names of plugins, distributions, extras or strategies (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 1 if something that is installed is broken.

    Raises:
        UnknownNameError: a plugin is asked for that there is not.
    """
    registry = get_registry()
    hardware = {offer.spec.name: probe(offer.spec) for offer in registry.accelerators}
    named = {name: _stands_for(name, registry) for name in arguments.plugins}
    asked = set().union(*named.values())
    inside = [plugin for plugin in registry.plugins if _is_asked_for(plugin, asked)]
    found = [diagnose(plugin, registry, hardware) for plugin in inside]
    beyond = [d for d in outside(registry) if _is_asked_for(d, asked)]
    diagnoses = [*(diagnosis for diagnosis, _ in found), *beyond]
    _refuse_unknown(named, [*inside, *beyond])
    checks = [check for _, made in found for check in made]
    machine = facts()
    broken = any(diagnosis.broken for diagnosis in diagnoses)
    if arguments.json:
        report = {
            "broken": broken,
            "plugins": [as_data(diagnosis) for diagnosis in diagnoses],
            "checks": [asdict(check) for check in checks],
            "machine": [asdict(fact) for fact in machine],
        }
        print(json.dumps(report, indent=2))
    else:
        show([_plugins(diagnoses), _notes(diagnoses), _checks(checks), _machine(machine)])
    return 1 if broken else 0


def _stands_for(name: str, registry: Registry) -> set[str]:
    """Names of what is meant by a name: its own, and those of who provides a strategy that is called so."""
    meant = {name, *(o.owner.distribution for o in registry.strategies if o.spec.alias == name)}
    backend = backend_of_alias(name)
    if backend is not None:
        meant.add(backend.distribution)
    return set(map(normalized, meant))


def _names(each: Plugin | Diagnosis) -> set[str]:
    own = each.plugin if isinstance(each, Diagnosis) else each.name
    return {normalized(own), normalized(each.distribution)}


def _is_asked_for(each: Plugin | Diagnosis, asked: set[str]) -> bool:
    return not asked or bool(_names(each) & asked)


def _refuse_unknown(named: Mapping[str, set[str]], found: Iterable[Plugin | Diagnosis]) -> None:
    known = {name for each in found for name in _names(each)}
    unknown = [name for name, meant in named.items() if not meant & known]
    if unknown:
        raise UnknownNameError(
            f"no plugin, distribution, extra or strategy is called {', '.join(unknown)}; `torchrelay doctor` shows all"
        )


def as_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain data, its result and its steps included."""
    return {**asdict(diagnosis), "result": diagnosis.result, "steps": diagnosis.steps}


def _plugins(diagnoses: list[Diagnosis]) -> Table:
    rows = []
    for each in diagnoses:
        owner = f"{each.distribution} {each.version}".rstrip()
        sdks = ", ".join(f"{module} {version}" for module, version in each.sdks.items())
        rows.append((each.plugin, owner, each.result, each.cause or sdks, each.mend))
    return Table("Plugins", ("plugin", "from", "result", "why", "what to do"), rows)


def _notes(diagnoses: list[Diagnosis]) -> Table:
    rows = [(each.plugin, note) for each in diagnoses for note in each.notes]
    return Table("Notes", ("plugin", "note"), rows)


def _checks(checks: list[Check]) -> Table:
    return Table(
        "Checks of plugins",
        ("check", "from", "result"),
        [(check.name, check.distribution, _result(check)) for check in checks],
    )


def _result(check: Check) -> str:
    if not check.complaint:
        return "ok"
    return f"optional: {check.complaint}" if check.optional else check.complaint


def _machine(machine: list[Fact]) -> Table:
    return Table(
        "Machine",
        ("what", "found", "what to do"),
        [(fact.what, fact.found, fact.mend) for fact in machine],
    )
