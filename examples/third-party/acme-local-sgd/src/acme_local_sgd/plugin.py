"""What this distribution brings, as data. torchrelay imports this module to list aliases, so it imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    AcceleratorSpec,
    Capabilities,
    Capability,
    StrategySpec,
    hookimpl,
    unsupported,
)

CAPABILITIES = Capabilities(
    declared={
        Capability.EXACT_AVERAGING: unsupported(
            "weights are averaged every few updates, not gradients in each"
        ),
        Capability.SYNC_BATCHNORM: unsupported(
            "between two averagings each process trains by itself, and so do its statistics; use ddp"
        ),
    }
)

TARGET = "acme_local_sgd.strategy:LocalSGDStrategy"


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """Local SGD on every accelerator, and as it is best run on Acme's."""
    yield StrategySpec(
        alias="local_sgd",
        target=TARGET,
        description="A process a device trains by itself; weights are averaged every 8 updates",
        capabilities=CAPABILITIES,
    )
    yield StrategySpec(
        alias="local_sgd_spawn",
        target=TARGET,
        description="As local_sgd, in processes spawned from this one",
        presets={"start_method": "spawn"},
        capabilities=CAPABILITIES,
    )
    yield StrategySpec(
        alias="local_sgd_sim",
        target=TARGET,
        description="As local_sgd on Acme's simulated devices, whose slow links want 16 updates between averagings",
        accelerators=("acme_sim",),
        presets={"period": 16},
        capabilities=CAPABILITIES,
    )


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """Acme's simulated device."""
    yield AcceleratorSpec(
        name="acme_sim",
        target="acme_local_sgd.accelerator:SimulatedAccelerator",
        probe="acme_local_sgd.probe:simulated",
        description="Acme's simulated device: the processor in its place.",
        # Below the CPU's 0: nobody gets a simulation who did not ask for it.
        priority=-1,
    )
