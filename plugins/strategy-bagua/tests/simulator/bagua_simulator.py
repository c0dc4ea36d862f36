"""A plugin of the tests: the accelerator `bagua_sim`, for which BaguaStrategy runs on the simulated Bagua."""

from __future__ import annotations

import os
from collections.abc import Iterable

from torchrelay.plugin import AcceleratorSpec, Hardware, StrategySpec, hookimpl
from torchrelay_bagua.plugin import ACCELERATORS, CAPABILITIES, DESCRIPTIONS, PRECISIONS, alias_of

ACCELERATORS.add("bagua_sim")


def probe() -> Hardware:
    """As many as the simulated machine has; hearing of it imports no torch."""
    return Hardware(count=int(os.environ.get("BAGUA_SIMULATOR_DEVICES", "2")))


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """The processor, standing in for GPUs."""
    yield AcceleratorSpec(
        name="bagua_sim",
        target="bagua_simulator_accelerator:SimulatedGPUAccelerator",
        probe="bagua_simulator:probe",
        description="The processor in the place of GPUs, under a simulator of Bagua, for tests",
        priority=0,
        default_strategy="bagua",
        precisions=PRECISIONS,
    )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """The aliases themselves, on the simulated machine."""
    for name, description in DESCRIPTIONS.items():
        yield StrategySpec(
            alias=alias_of(name),
            target="torchrelay_bagua.strategy:BaguaStrategy",
            description=f"{description}; on a simulator of Bagua, for tests",
            accelerators=("bagua_sim",),
            presets={"algorithm": name},
            capabilities=CAPABILITIES[name],
        )
