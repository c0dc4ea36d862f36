"""How far each plugin comes, from installed to usable: the first step that fails, why, and what mends it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from torchrelay.plugin import catalogue
from torchrelay.plugin.catalogue import Backend
from torchrelay.plugin.discovery import DISABLE_VARIABLE
from torchrelay.plugin.installing import install, install_backend, reinstall
from torchrelay.plugin.records import (
    STAGES,
    DisabledPlugin,
    Plugin,
    PluginFailure,
    Stage,
    normalized,
)
from torchrelay.plugin.registry import Registry
from torchrelay.plugin.scan import version_of
from torchrelay.plugin.specs import Hardware

Step = Literal["installed", "declared", "importable", "SDK found", "hardware found", "usable"]

STEPS: tuple[Step, ...] = (
    "installed",
    "declared",
    "importable",
    "SDK found",
    "hardware found",
    "usable",
)

STEP_OF: Mapping[Stage, Step] = MappingProxyType(
    {
        "metadata": "installed",
        "contract": "declared",
        "import": "importable",
        "register": "importable",
        "hook": "importable",
        "spec": "importable",
    }
)
"""The step that a failure of discovery ends."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """How far a plugin comes.

    Attributes:
        plugin: name of its entry point; of its extra where it is not installed.
        distribution: name of its distribution.
        version: version of its distribution; "" where there is none.
        failed: the first step that fails; None if none does.
        cause: why it fails.
        mend: the command that mends it, or the sentence; "" if nothing does.
        broken: whether something that is installed cannot work as it is.
        disabled: whether the user switched it off.
        sdks: what was found of the SDKs that it needs: module -> version.
        import_seconds: what importing its plugin module took; None if that was not tried.
        notes: what else its user should know.
    """

    plugin: str
    distribution: str
    version: str = ""
    failed: Step | None = None
    cause: str = ""
    mend: str = ""
    broken: bool = False
    disabled: bool = False
    sdks: Mapping[str, str] = field(default_factory=dict)
    import_seconds: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """How far it comes, in a word or two."""
        if self.disabled:
            return "disabled"
        return "usable" if self.failed is None else f"not {self.failed}"

    @property
    def steps(self) -> dict[str, bool | None]:
        """Each step: whether it was passed; None for those after the one that failed."""
        if self.failed is None:
            return dict.fromkeys(STEPS, True)
        place = STEPS.index(self.failed)
        return {
            step: True if index < place else None if index > place else False
            for index, step in enumerate(STEPS)
        }


def outside(registry: Registry) -> Iterator[Diagnosis]:
    """The plugins that were not loaded, and the backends of the family that are not installed."""
    for failure in registry.failures:
        if not any(failure.owner == plugin.owner for plugin in registry.plugins):
            yield failed(failure)
    for plugin in registry.disabled:
        yield disabled(plugin)
    groups = (registry.plugins, registry.failures, registry.disabled)
    names = {normalized(each.distribution) for group in groups for each in group}
    for backend in catalogue.BACKENDS:
        if backend.distribution not in names:
            yield unknown(backend)


def failed(failure: PluginFailure) -> Diagnosis:
    """The diagnosis of a plugin that discovery could not load."""
    return Diagnosis(
        plugin=failure.name,
        distribution=failure.distribution,
        version=failure.version,
        failed=STEP_OF[failure.stage],
        cause=f"{STAGES[failure.stage]}: {failure.cause}",
        mend=_mend_failure(failure),
        broken=True,
    )


def misheard(plugin: Plugin, failures: Sequence[PluginFailure]) -> Diagnosis:
    """The diagnosis of a plugin that was loaded, but of which hooks or specs were left out."""
    return Diagnosis(
        plugin=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        failed="importable",
        cause="; ".join(f"{STAGES[failure.stage]}: {failure.cause}" for failure in failures),
        mend=_mend_failure(failures[0]),
        broken=True,
        import_seconds=plugin.import_seconds,
    )


def disabled(plugin: DisabledPlugin) -> Diagnosis:
    """The diagnosis of a plugin that the user switched off."""
    names = [name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")]
    own = {normalized(plugin.name), normalized(plugin.distribution)}
    rest = [name for name in names if name != "*" and normalized(name) not in own]
    value = ",".join(filter(None, rest))
    return Diagnosis(
        plugin=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        failed="importable",
        disabled=True,
        cause=f"the environment variable {DISABLE_VARIABLE} switches it off",
        mend=f"export {DISABLE_VARIABLE}={value}" if value else f"unset {DISABLE_VARIABLE}",
    )


def unknown(backend: Backend) -> Diagnosis:
    """The diagnosis of a backend of the family of which discovery has found nothing."""
    version = version_of(backend.distribution)
    facts = Diagnosis(plugin=backend.extra, distribution=backend.distribution)
    if version != "absent":
        return replace(
            facts,
            version=version,
            failed="declared",
            cause="it is installed, but declares no plugin",
            mend=reinstall(backend.distribution),
            broken=True,
        )
    cause = backend.summary if backend.published else "torchrelay has no package for it yet"
    mend = install_backend(backend) if backend.published else ""
    return replace(facts, failed="installed", cause=cause, mend=mend)


def mend_target(distribution: str, package: str, cause: str) -> str:
    """The command that mends a target that cannot be imported.

    Args:
        distribution: that brings it.
        package: the plugin's own package.
        cause: why it cannot be.
    """
    module = re.search(r"No module named '([\w.]+)'", cause)
    if module and module[1].partition(".")[0] != package:
        return install(distribution)  # gets whatever it depends on that is not there
    return reinstall(distribution)


def absent_hardware(
    names: Sequence[str], refusals: Mapping[str, str], hardware: Mapping[str, Hardware]
) -> str:
    """Why none of the accelerators has a device; "" if one has.

    Args:
        names: the accelerators; every one that there is where it is empty.
        refusals: the accelerators to leave out.
        hardware: what the probe of each accelerator found.
    """
    absent = Hardware(count=0, reason="no plugin brings this accelerator")
    found = {name: hardware.get(name, absent) for name in names or hardware if name not in refusals}
    if any(each.count for each in found.values()):
        return ""
    return "; ".join(f"{name}: {each.reason}" for name, each in found.items())


def _mend_failure(failure: PluginFailure) -> str:
    if failure.stage == "metadata" and os.path.exists(failure.distribution):
        return f"rm -r {failure.distribution}, and install it again"
    if failure.stage == "contract":
        command = re.search(r"pip install --upgrade [^;]+", failure.cause)
        if command:
            return command[0]
    if failure.stage == "import":
        package = failure.cause.partition(":")[0].partition(".")[0]
        return mend_target(failure.distribution, package, failure.cause)
    if failure.stage == "metadata":
        return reinstall(failure.distribution)
    return f"{install(failure.distribution, '--upgrade')}, or tell its authors"
