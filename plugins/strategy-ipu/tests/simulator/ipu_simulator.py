"""A plugin of the tests: the accelerator `ipu_sim`, for which IPUStrategy runs on the simulated PopTorch."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import AcceleratorSpec, Hardware, StrategySpec, hookimpl
from torchrelay_ipu.plugin import CAPABILITIES, PRECISIONS


def probe() -> Hardware:
    """As many as the simulated machine has, or any number of emulated ones."""
    from poptorch.hardware import emulated, installed

    return Hardware(count=installed() or int(emulated()))


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """The simulated IPU."""
    yield AcceleratorSpec(
        name="ipu_sim",
        target="ipu_simulator_accelerator:SimulatedIPUAccelerator",
        probe="ipu_simulator:probe",
        description="A simulator of IPUs on the processor, for tests",
        priority=0,
        indexed=False,
        default_strategy="ipu_strategy",
        precisions=PRECISIONS,
    )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """IPUStrategy itself, on the simulated device."""
    yield StrategySpec(
        alias="ipu_strategy",
        target="torchrelay_ipu.strategy:IPUStrategy",
        description="IPUStrategy on a simulator of IPUs, for tests",
        accelerators=("ipu_sim",),
        capabilities=CAPABILITIES,
        process_per_device=False,
    )
