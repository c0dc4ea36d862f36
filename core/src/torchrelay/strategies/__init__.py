"""Strategies: the contract, the reference implementation, and whatever the installed packages provide.

`from torchrelay.strategies import DDPStrategy` goes through the registry, so a package's classes are here as soon
as it is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchrelay.lazy import attach

_OWN = {
    "Build": ".strategy",
    "Clip": ".plan",
    "Needs": ".plan",
    "ParallelStrategy": ".parallel",
    "Parts": ".components",
    "Plan": ".plan",
    "ProcessGroupStrategy": ".process_group",
    "SingleDeviceStrategy": ".single_device",
    "StartMethod": ".process_group",
    "StepDispatcher": ".dispatch",
    "Strategy": ".strategy",
    "average_gradients": ".averaging",
    "share_buffers": ".buffers",
}

if TYPE_CHECKING:
    from torchrelay.strategies.averaging import average_gradients as average_gradients
    from torchrelay.strategies.buffers import share_buffers as share_buffers
    from torchrelay.strategies.components import Parts as Parts
    from torchrelay.strategies.dispatch import StepDispatcher as StepDispatcher
    from torchrelay.strategies.parallel import ParallelStrategy as ParallelStrategy
    from torchrelay.strategies.plan import Clip as Clip
    from torchrelay.strategies.plan import Needs as Needs
    from torchrelay.strategies.plan import Plan as Plan
    from torchrelay.strategies.process_group import ProcessGroupStrategy as ProcessGroupStrategy
    from torchrelay.strategies.process_group import StartMethod as StartMethod
    from torchrelay.strategies.single_device import SingleDeviceStrategy as SingleDeviceStrategy
    from torchrelay.strategies.strategy import Build as Build
    from torchrelay.strategies.strategy import Strategy as Strategy
else:
    _own, __dir__, __all__ = attach(__name__, _OWN)

    def __getattr__(name: str) -> Any:
        if name in _OWN or not name.endswith("Strategy"):
            return _own(name)
        return _provided(name)

    def _provided(name: str) -> Any:
        from torchrelay.plugin.registry import get_registry
        from torchrelay.plugin.targets import load_target

        registry = get_registry()
        offer = registry.strategy_class_offer(name)
        if offer is None:
            raise registry.strategy_class_error(name) or AttributeError(
                f"module {__name__!r} has no attribute {name!r}"
            )
        value = globals()[name] = load_target(offer.spec.target)
        return value
