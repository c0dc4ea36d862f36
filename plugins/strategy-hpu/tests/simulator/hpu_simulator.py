"""A plugin of the tests: the accelerator `hpu_sim`, for which the HPU strategies run on the simulated bridge."""

from __future__ import annotations

import os
from collections.abc import Iterable

from torchrelay.plugin import AcceleratorSpec, Hardware, PrecisionSpec, StrategySpec, hookimpl
from torchrelay_hpu.plugin import PARALLEL_CAPABILITIES, PRECISIONS, SINGLE_CAPABILITIES


def probe() -> Hardware:
    """As many as the simulated machine has; hearing of it imports no torch."""
    return Hardware(count=int(os.environ.get("HPU_SIMULATOR_DEVICES", "2")))


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """The simulated HPU."""
    yield AcceleratorSpec(
        name="hpu_sim",
        target="hpu_simulator_accelerator:SimulatedHPUAccelerator",
        probe="hpu_simulator:probe",
        description="A simulator of HPUs on the processor, for tests",
        priority=0,
        indexed=False,
        default_strategy="hpu_single",
        precisions=PRECISIONS,
    )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """The HPU strategies themselves, on the simulated device."""
    for alias, name, capabilities in (
        ("hpu_single", "SingleHPUStrategy", SINGLE_CAPABILITIES),
        ("single_device", "SingleHPUStrategy", SINGLE_CAPABILITIES),
        ("hpu_parallel", "HPUParallelStrategy", PARALLEL_CAPABILITIES),
        ("ddp", "HPUParallelStrategy", PARALLEL_CAPABILITIES),
    ):
        yield StrategySpec(
            alias=alias,
            target=f"torchrelay_hpu.strategy:{name}",
            description=f"{name} on a simulator of HPUs, for tests",
            accelerators=("hpu_sim",),
            capabilities=capabilities,
        )


@hookimpl
def torchrelay_precision_plugins() -> Iterable[PrecisionSpec]:
    """8-bit floats."""
    yield PrecisionSpec(
        name="fp8",
        target="torchrelay_hpu.precision:FP8Precision",
        description="8-bit floats on a simulator of HPUs, for tests",
        accelerators=("hpu_sim",),
    )
