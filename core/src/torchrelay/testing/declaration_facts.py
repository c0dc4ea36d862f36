"""What the checks of declarations judge, found out in a fresh process, which has imported no torch yet."""

from __future__ import annotations

import importlib
import inspect
import sys
import time
from typing import Any

from torchrelay.plugin.records import Owner
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.specs import StrategySpec
from torchrelay.plugin.targets import load_target, missing
from torchrelay.testing.context import Context

UNKNOWN = "torchrelay_kit_knows_no_such_option"


def find_out(context: Context, module: str, attempt: int = 0) -> None:
    """Import a plugin's module, then everything that its distribution's aliases name.

    Args:
        context: the program's.
        module: the plugin's module.
        attempt: tells one program from the next.
    """
    begun = time.perf_counter()
    importlib.import_module(module)
    seconds = time.perf_counter() - begun
    loaded = set(sys.modules)
    specs = _specs(module)
    sdks = {need.module for spec in specs for need in spec.requires}
    facts: dict[str, Any] = {
        "seconds": seconds,
        "heavy": sorted(name for name in {"torch", *sdks} if name in loaded),
        "absent": {spec.alias: _absent(spec) for spec in specs if spec.requires},
        "targets": {} if attempt else {spec.alias: _target(spec) for spec in specs},
    }
    context.write("facts", facts)


def _specs(module: str) -> list[StrategySpec]:
    registry = get_registry()
    owners = {Owner(p.distribution, p.version) for p in registry.plugins if p.module == module}
    return [offer.spec for offer in registry.strategies if offer.owner in owners]


def _absent(spec: StrategySpec) -> dict[str, Any]:
    """What asking for an alias raises when the SDK is not there."""
    hidden = {need.module.partition(".")[0] for need in spec.requires}
    before = {name: sys.modules[name] for name in hidden if name in sys.modules}
    accelerator = spec.accelerators[0] if spec.accelerators else "cpu"
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
        get_registry().strategy(spec.alias, accelerator)
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        return _described(error)
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(before)
    return {}


def _target(spec: StrategySpec) -> dict[str, Any]:
    """What an alias's target is, and how its constructor takes the presets and an option that nobody knows."""
    from torchrelay.strategies.strategy import Strategy

    if missing(spec.requires):
        return {"missing": [need.module for need in missing(spec.requires)]}
    try:
        kind = load_target(spec.target)
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        return {"error": _described(error)}
    if not (inspect.isclass(kind) and issubclass(kind, Strategy)):
        return {"error": {"message": f"{spec.target} is no subclass of Strategy", "absent": ""}}
    made, problem = _constructed(kind, dict(spec.presets))
    carries = made or kind  # capabilities may depend on the presets
    _, refusal = _constructed(kind, {**spec.presets, UNKNOWN: 1})
    return {
        "same_capabilities": carries.capabilities == spec.capabilities,
        "same_processes": carries.process_per_device == spec.process_per_device,
        "presets": problem,
        "takes_anything": not refusal,
    }


def _constructed(kind: Any, arguments: dict[str, Any]) -> tuple[Any, str]:
    """A class made with some arguments, or None, and why it cannot be made; "" if it can."""
    try:
        return kind(**arguments), ""
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        return None, f"{type(error).__name__}: {error}"


def _described(error: BaseException) -> dict[str, Any]:
    cause = error.__cause__ or error
    absent = cause.name if isinstance(cause, ModuleNotFoundError) else ""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return {"kinds": kinds, "message": str(error), "absent": absent}
