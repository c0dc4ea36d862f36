"""Everything that the installed plugins offer. Each failure is recorded, none is fatal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pluggy
from importlib_metadata import EntryPoint

from torchrelay.plugin import hookspecs
from torchrelay.plugin.loading import LoadError, load
from torchrelay.plugin.offers import collect
from torchrelay.plugin.records import (
    DisabledPlugin,
    Offer,
    Plugin,
    PluginFailure,
    normalized,
)
from torchrelay.plugin.scan import CORE, GROUP, Candidate, core_version, scan
from torchrelay.plugin.specs import CONTRACT_VERSION, Spec

__all__ = ["DISABLE_VARIABLE", "DisabledPlugin", "Discovery", "Plugin", "PluginFailure", "discover"]

DISABLE_VARIABLE = "TORCHRELAY_DISABLE_PLUGINS"
"""Names of plugins or distributions not to be loaded, with commas between; `*` for all."""


@dataclass(frozen=True)
class Discovery:
    """What was found in this environment.

    Attributes:
        manager: holds the hooks of every loaded plugin.
        plugins: the loaded plugins, core's own first.
        offers: everything that they offer.
        failures: what did not load, and the hooks that were not heard.
        disabled: what the user switched off.
    """

    manager: pluggy.PluginManager
    plugins: tuple[Plugin, ...]
    offers: tuple[Offer[Spec], ...]
    failures: tuple[PluginFailure, ...]
    disabled: tuple[DisabledPlugin, ...]


def discover(
    path: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Discovery:
    """Load every plugin that is installed and fits, and ask each what it offers.

    Args:
        path: directories to look for distributions in; `sys.path` when None.
        environ: the environment variables to read; `os.environ` when None.
    """
    candidates, failures = scan(path)
    off = _switched_off((os.environ if environ is None else environ).get(DISABLE_VARIABLE, ""))
    disabled = [candidate for candidate in candidates if off(candidate)]
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = []
    for candidate in [_core(), *(c for c in candidates if c not in disabled)]:
        try:
            plugins.append(load(candidate, manager))
        except LoadError as error:
            failures.append(_failure(candidate, error))
    offers, unheard = collect(manager, plugins)
    return Discovery(
        manager,
        tuple(plugins),
        offers,
        (*failures, *unheard),
        tuple(
            DisabledPlugin(name=c.entry.name, distribution=c.distribution, version=c.version)
            for c in disabled
        ),
    )


def _core() -> Candidate:
    entry = EntryPoint(name=CORE, value="torchrelay.plugin.builtin", group=GROUP)
    return Candidate(entry, CORE, core_version(), (f"v{CONTRACT_VERSION}",))


def _switched_off(value: str) -> Callable[[Candidate], bool]:
    names = {normalized(name.strip()) for name in value.split(",")}

    def off(candidate: Candidate) -> bool:
        own = {normalized(candidate.entry.name), normalized(candidate.distribution)}
        return "*" in names or bool(own & names)

    return off


def _failure(candidate: Candidate, error: LoadError) -> PluginFailure:
    return PluginFailure(
        name=candidate.entry.name,
        distribution=candidate.distribution,
        version=candidate.version,
        stage=error.stage,
        cause=str(error),
    )
