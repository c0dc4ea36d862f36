"""From a declared plugin to a loaded one: its contract, its import, its hooks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import pluggy

from torchrelay.errors import PluginError
from torchrelay.plugin import hookspecs
from torchrelay.plugin.installing import install
from torchrelay.plugin.records import Plugin, Stage, cause_of, did_you_mean
from torchrelay.plugin.scan import CONTRACT_GROUP, CORE, Candidate, core_version
from torchrelay.plugin.specs import CONTRACT_VERSION, OLDEST_CONTRACT_VERSION


class LoadError(PluginError):
    """A plugin cannot be loaded: how far it came, and why."""

    def __init__(self, stage: Stage, cause: str) -> None:
        super().__init__(cause)
        self.stage = stage


def load(candidate: Candidate, manager: pluggy.PluginManager) -> Plugin:
    """Import a plugin's module and register its hooks.

    Raises:
        LoadError: it was written for another contract (it has not been imported then), does not
            import, or has hooks that do not fit.
    """
    contract = _contract(candidate)
    start = time.perf_counter()
    try:
        module = candidate.entry.load()
    except (Exception, SystemExit) as error:
        raise LoadError("import", f"{candidate.entry.value}: {cause_of(error)}") from error
    seconds = time.perf_counter() - start
    plugin = Plugin(
        name=candidate.entry.name,
        distribution=candidate.distribution,
        version=candidate.version,
        module=candidate.entry.value,
        contract=contract,
        import_seconds=seconds,
    )
    _register(module, plugin.key, manager)
    return plugin


def _contract(candidate: Candidate) -> int:
    """The newest version of the contract that both sides know.

    Raises:
        LoadError: there is none.
    """
    stated = [int(text[1:]) for text in candidate.contracts if re.fullmatch(r"v\d+", text)]
    if not stated:
        raise LoadError(
            "contract",
            "it does not state for which version of the contract it was written "
            f"({', '.join(candidate.contracts) or 'nothing'}); upgrade it: "
            f"{install(candidate.distribution, '--upgrade')}; its author adds to pyproject.toml "
            f'[project.entry-points."{CONTRACT_GROUP}"] '
            f'v{CONTRACT_VERSION} = "{candidate.entry.value}"',
        )
    fitting = [v for v in stated if OLDEST_CONTRACT_VERSION <= v <= CONTRACT_VERSION]
    if fitting:
        return max(fitting)
    outdated = CORE if min(stated) > CONTRACT_VERSION else candidate.distribution
    raise LoadError(
        "contract",
        f"written for contract {_versions(stated)}, while torchrelay {core_version()} knows "
        f"{_versions({OLDEST_CONTRACT_VERSION, CONTRACT_VERSION})}; "
        f"{install(outdated, '--upgrade')}",
    )


def _versions(numbers: Iterable[int]) -> str:
    return " to ".join(f"v{number}" for number in sorted(numbers))


def _register(module: object, key: str, manager: pluggy.PluginManager) -> None:
    """Add the plugin's hooks, all of them or none.

    Raises:
        LoadError: a hook is unknown, has arguments that it is not given, or wraps those of other
            plugins; or there is no hook at all.
    """
    try:
        manager.register(module, key)
        _check_hooks(module, manager)
    except Exception as error:
        if manager.has_plugin(key):
            manager.unregister(name=key)
        raise LoadError("register", " ".join(str(error).split())) from error


def _check_hooks(module: object, manager: pluggy.PluginManager) -> None:
    callers = manager.get_hookcallers(module)
    if not callers:
        raise PluginError("it has no hook; decorate its functions with torchrelay.plugin.hookimpl")
    for caller in callers:
        for impl in caller.get_hookimpls():
            if impl.plugin is module:
                _check_hook(caller, impl)


def _check_hook(caller: pluggy.HookCaller, impl: pluggy.HookImpl) -> None:
    if impl.wrapper or impl.hookwrapper:
        raise PluginError(
            f"{caller.name} is a hook wrapper; a plugin answers for itself and cannot wrap others"
        )
    if not caller.has_spec() and not impl.optionalhook:
        known = [name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_")]
        raise PluginError(
            f"unknown hook {caller.name}{did_you_mean(caller.name, known)}; "
            f"known: {', '.join(known)}; "
            "hookimpl(optionalhook=True) lets an older torchrelay ignore a newer hook"
        )
