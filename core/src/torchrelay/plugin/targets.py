"""Targets: from `"package.module:Attribute"` to the thing itself, and what must be there first."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from torchrelay.errors import BrokenPluginError, TorchrelayError
from torchrelay.plugin.records import cause_of
from torchrelay.plugin.specs import AcceleratorSpec, Hardware, Requirement


def load_target(target: str) -> Any:
    """Import what a spec's target names.

    Args:
        target: `"package.module:Attribute"`.

    Raises:
        BrokenPluginError: the module does not import, or has no such attribute.
        TorchrelayError: whatever the module itself raises on purpose while it is imported.
    """
    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except TorchrelayError:
        raise
    except Exception as error:
        raise BrokenPluginError(
            f"cannot load {target!r}: {cause_of(error)}; reinstall or upgrade the distribution "
            f"that provides {module_name.partition('.')[0]}"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise BrokenPluginError(
            f"cannot load {target!r}: {module_name} has no {attribute!r}; reinstall or upgrade the "
            f"distribution that provides {module_name.partition('.')[0]}"
        ) from error


def missing(requirements: Iterable[Requirement]) -> tuple[Requirement, ...]:
    """Those of `requirements` whose module is not there. Imports nothing.

    A dotted module whose parent has not been imported is judged by its top-level package: looking
    inside would import the parent, which for a vendor's SDK may take seconds and touch the
    hardware.
    """
    return tuple(need for need in requirements if not _importable(need.module))


def needs(requirements: Iterable[Requirement]) -> str:
    """What has to be got, as one sentence; "" if nothing has."""
    return "; ".join(f"needs {need.module}: {need.install}" for need in requirements)


def probe(spec: AcceleratorSpec) -> Hardware:
    """Run an accelerator's probe; one that cannot be run finds no device, and says why."""
    absent = missing(spec.requires)
    if absent:
        return Hardware(count=0, reason=needs(absent))
    try:
        found = load_target(spec.probe)()
    except Exception as error:
        return Hardware(count=0, reason=f"its probe {spec.probe} failed: {cause_of(error)}")
    if not isinstance(found, Hardware):
        return Hardware(count=0, reason=f"its probe {spec.probe} returned {found!r}")
    return found


def _importable(module: str) -> bool:
    parent = module.rpartition(".")[0]
    name = module if parent in sys.modules else module.partition(".")[0]
    if name in sys.modules:
        return sys.modules[name] is not None
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is imported, and is a module that holds no others
        return False
