"""A plugin of the tests: the accelerator `hpu_sim`, for which the HPU strategies run on the simulated bridge."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torchrelay.plugin import AcceleratorSpec, Hardware, PrecisionSpec, StrategySpec, hookimpl
from torchrelay_hpu import plugin

NAME = "hpu_sim"


def probe() -> Hardware:
    """As many as the simulated machine has; hearing of it imports no torch."""
    return Hardware(count=int(os.environ.get("HPU_SIMULATOR_DEVICES", "2")))


def _simulated(spec: Any, **changed: Any) -> Any:
    """What is shipped, on the simulated device."""
    return replace(spec, description=f"{spec.description}; on a simulator, for tests", **changed)


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """The simulated HPU."""
    for spec in plugin.torchrelay_accelerators():
        yield _simulated(
            spec,
            name=NAME,
            target="hpu_simulator_accelerator:SimulatedHPUAccelerator",
            probe="hpu_simulator:probe",
            priority=0,
            requires=(),
        )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """The HPU strategies themselves, on the simulated device."""
    for spec in plugin.torchrelay_strategies():
        yield _simulated(spec, accelerators=(NAME,), requires=())


@hookimpl
def torchrelay_precision_plugins() -> Iterable[PrecisionSpec]:
    """8-bit floats."""
    for spec in plugin.torchrelay_precision_plugins():
        yield _simulated(spec, accelerators=(NAME,))
