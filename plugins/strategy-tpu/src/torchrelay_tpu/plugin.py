"""What this distribution provides, as data. Imports neither torch nor torch-xla."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    AcceleratorSpec,
    Capabilities,
    Capability,
    DiagnosticSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    unsupported,
)

REQUIRES = (Requirement(module="torch_xla", install='pip install "torch==2.9.*" "torch-xla==2.9.*"'),)

PRECISIONS = ("32-true", "bf16-true", "bf16-mixed")

CAPABILITIES = Capabilities(
    declared={
        Capability.MULTIPLE_NODES: unsupported(
            "a TPU slice of several hosts has not been run; take num_nodes=1"
        ),
    },
    precisions=PRECISIONS,
)


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """One device, or all of them in one process."""
    for alias in ("single_tpu", "single_device"):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_tpu.strategy:SingleTPUStrategy",
            description="One process on one device of XLA's.",
            accelerators=("tpu",),
            capabilities=CAPABILITIES,
            requires=REQUIRES,
        )


    for alias, shards, what in (
        ("tpu_spmd", False, "batches"),
        ("tpu_fsdp", True, "batches, parameters and optimizer state"),
    ):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_tpu.spmd:XLASPMDStrategy",
            description=f"One process for all devices of XLA's, between which {what} are divided.",
            accelerators=("tpu",),
            presets={"shard_parameters": shards},
            capabilities=CAPABILITIES,
            requires=REQUIRES,
            process_per_device=False,
        )


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """TPUs, and the processor where `PJRT_DEVICE=CPU` asks for it."""
    yield AcceleratorSpec(
        name="tpu",
        target="torchrelay_tpu.accelerator:XLAAccelerator",
        probe="torchrelay_tpu.probe:probe",
        description="Google's TPUs; with PJRT_DEVICE=CPU the processor, as XLA drives it.",
        priority=60,
        precisions=PRECISIONS,
        requires=REQUIRES,
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether torch-xla is there, for this torch."""
    yield DiagnosticSpec(
        name="torch_xla",
        target="torchrelay_tpu.vendor:examined",
        description="torch-xla is compiled against one minor release of torch.",
    )
