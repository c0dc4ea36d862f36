"""What a plugin declares is true, cheap to read, and complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torchrelay.errors import UnavailableError, UserError
from torchrelay.plugin.lookup import named
from torchrelay.plugin.records import Offer, Plugin
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.specs import StrategySpec
from torchrelay.testing.case import Case
from torchrelay.testing.checks import CheckFailed, Program, check, expect, skip

IMPORT_BUDGET = 0.3
"""Seconds that importing a plugin's module may take, on top of torchrelay's own; every command pays them."""

ATTEMPTS = 3
WORDS = 3


def _declared(case: Case) -> Offer[StrategySpec]:
    """The declaration of the alias; skips where there is none, which `entry_point_found` judges."""
    if case.subject.is_class:
        skip("the subject is named by its class, which no plugin declares")
    offers = named(get_registry().strategies, case.subject.strategy)
    if not offers:
        skip("no plugin declares the alias: see entry_point_found")
    fitting = [offer for offer in offers if case.kit.accelerator in offer.spec.accelerators]
    return (fitting or list(offers))[0]


def _plugin(case: Case) -> Plugin:
    owner = _declared(case).owner
    for plugin in get_registry().plugins:
        if (plugin.distribution, plugin.version) == (owner.distribution, owner.version):
            return plugin
    raise CheckFailed(f"no plugin of {owner} is loaded")


def _facts(case: Case, attempt: int = 0) -> dict[str, Any]:
    arguments = {"module": _plugin(case).module, "attempt": attempt}
    target = "torchrelay.testing.declaration_facts:find_out"
    program = Program(target, arguments, real_interpreter=True)
    found: dict[str, Any] = case.run(program, case.subject).require_success().read("facts")
    return found


def _targets(case: Case, fact: str) -> Iterator[tuple[str, Any]]:
    """A fact about each alias's target, where it could be imported."""
    targets: Mapping[str, Mapping[str, Any]] = _facts(case)["targets"]
    found = [(alias, target[fact]) for alias, target in targets.items() if fact in target]
    if not found:
        skip("no target could be imported: see aliases_resolve and missing_sdk_is_reported")
    return iter(found)


@check(
    why="an alias that is not found, or a hook that is not heard, does not exist for users",
    advice='declare the plugin module in [project.entry-points.torchrelay] and its contract in "torchrelay.contract", '
    "and give every hook the signature of torchrelay.plugin.hookspecs; `torchrelay list` shows what was heard",
)
def entry_point_found(case: Case) -> None:
    """The alias can be had, but for its SDK, and nothing of its distribution was left out."""
    if case.subject.is_class:
        skip("the subject is named by its class, which no plugin declares")
    try:
        get_registry().strategy(case.subject.strategy, case.kit.accelerator)
    except UserError as error:
        # Without its SDK it is found all the same.
        expect(isinstance(error, UnavailableError), str(error))
    owner = _declared(case).owner
    lost = [each for each in get_registry().failures if each.distribution == owner.distribution]
    expect(not lost, "; ".join(f"{each.name}: {each.cause}" for each in lost))


@check(
    why="every command lists every plugin, so one that imports torch or its SDK slows or breaks them all",
    advice="import in plugin.py from torchrelay.plugin alone; the SDK belongs in vendor.py, imported inside functions",
)
def imports_neither_torch_nor_sdk(case: Case) -> None:
    """What is in sys.modules after the plugin module was imported in a fresh process."""
    heavy = _facts(case)["heavy"]
    expect(not heavy, f"importing {_plugin(case).module} imported {', '.join(heavy)}")


@check(
    why="every command imports every plugin, and users wait for it",
    advice="leave plugin.py to declarations: no file, network or hardware is looked at when it is imported",
)
def stays_in_the_import_budget(case: Case) -> None:
    """The best of some imports, each in a fresh process."""
    if _facts(case)["heavy"]:
        skip("it imports torch or its SDK: see imports_neither_torch_nor_sdk")
    best = float("inf")
    for attempt in range(ATTEMPTS):
        best = min(best, _facts(case, attempt)["seconds"])
        if best <= IMPORT_BUDGET:
            return
    raise CheckFailed(
        f"importing {_plugin(case).module} takes {best:.2f} s; {IMPORT_BUDGET} s may be"
    )


@check(
    why="an alias whose target does not import fails only when somebody asks for it",
    advice='write targets as "package.module:Class", of a class that derives from torchrelay.strategies.Strategy',
)
def aliases_resolve(case: Case) -> None:
    """Every alias of the distribution; an absent SDK is judged by missing_sdk_is_reported."""
    for alias, target in _facts(case)["targets"].items():
        error = target.get("error")
        if error and not error["absent"]:
            raise CheckFailed(f"{alias!r}: {error['message']}")


@check(
    why="an alias is a strategy with some options set, and one that the constructor does not take breaks the alias",
    advice="name the constructor's own keyword arguments in `presets`",
)
def presets_reach_the_constructor(case: Case) -> None:
    """The class of every alias is made with its presets."""
    for alias, problem in _targets(case, "presets"):
        expect(not problem, f"{alias!r} cannot be made with its presets: {problem}")


@check(
    why="an option that is swallowed, because it is misspelled, silently trains something else",
    advice="name options in the constructor, and hand the rest on to super().__init__, which refuses the unknown",
)
def refuses_unknown_options(case: Case) -> None:
    """An option that nobody has."""
    for alias, takes_anything in _targets(case, "takes_anything"):
        expect(not takes_anything, f"{alias!r}: its class takes any keyword argument at all")


@check(
    why="`torchrelay list` and the documentation show it",
    advice="write one sentence about what the alias does, on one line",
)
def description_is_present(case: Case) -> None:
    """Some words about every alias of the distribution."""
    owner = _declared(case).owner
    for offer in get_registry().strategies:
        text = offer.spec.description
        if offer.owner == owner and (len(text.split()) < WORDS or "\n" in text.strip()):
            raise CheckFailed(f"{offer.spec.alias!r} is described as {text!r}")


@check(
    why="what a plugin declares is shown and judged before the class is imported, so both must say the same",
    advice="make one Capabilities object in plugin.py and let the class carry it; the same for process_per_device",
)
def declares_what_the_class_carries(case: Case) -> None:
    """The capabilities, and whether each device has its own process."""
    for alias, same in _targets(case, "same_capabilities"):
        expect(same, f"{alias!r}: the spec's capabilities are not those of the class")
    for alias, same in _targets(case, "same_processes"):
        expect(same, f"{alias!r}: the spec's process_per_device is not that of the class")


@check(
    why="a precision that nobody knows can never be asked for",
    advice="name precisions as `torchrelay.plugin.PrecisionSpec` does, such as 'bf16-mixed', and bring your own specs",
)
def capabilities_are_known(case: Case) -> None:
    """The precisions that are declared; capabilities check themselves."""
    known = {offer.spec.name for offer in get_registry().precisions}
    declared = _declared(case).spec.capabilities.precisions or ()
    strange = [name for name in declared if name not in known]
    expect(not strange, f"precisions {strange} are unknown; known: {', '.join(sorted(known))}")


@check(
    why="users without the SDK must read how to get it, not a traceback of an import",
    advice="declare the SDK in the spec's `requires`, with the command that installs it",
)
def missing_sdk_is_reported(case: Case) -> None:
    """With the SDK hidden: UnavailableError that names it and how to get it; and nothing undeclared is missing."""
    facts = _facts(case)
    for alias, target in facts["targets"].items():
        absent = target.get("error", {}).get("absent")
        expect(not absent, f"{alias!r} needs the module {absent!r}, which `requires` does not name")
    requires = {offer.spec.alias: offer.spec.requires for offer in get_registry().strategies}
    for alias, error in facts["absent"].items():
        expect(error, f"{alias!r} is given out although its SDK is not there")
        said = "UnavailableError" in error["kinds"] and all(
            need.install in error["message"] for need in requires[alias]
        )
        expect(said, f"{alias!r} without its SDK: {error['message']}")
