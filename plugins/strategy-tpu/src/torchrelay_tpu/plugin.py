"""What this distribution provides, as data. Imports neither torch nor torch-xla."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torchrelay.plugin import (
    AcceleratorSpec,
    Capabilities,
    Capability,
    CheckpointIOSpec,
    DiagnosticSpec,
    EnvironmentSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    unsupported,
)

REQUIRES = (
    Requirement(module="torch_xla", install='pip install "torch==2.9.*" "torch-xla==2.9.*"'),
)

PRECISIONS = ("32-true", "bf16-true", "bf16-mixed")

CAPABILITIES = Capabilities(
    declared={
        Capability.CLOSURE_OPTIMIZERS: unsupported(
            "XLA would compile anew each time that it decides by a loss whether to call its closure again; use SGD or "
            'Adam, or accelerator="cpu"'
        ),
        Capability.MULTIPLE_NODES: unsupported(
            "a TPU slice of several hosts has not been run; take num_nodes=1"
        ),
    },
    precisions=PRECISIONS,
)

SUMS_NO_BFLOAT16 = (
    "XLA has no sum of bfloat16 between replicas on the processor; take bf16-mixed, or tpu_spmd"
)

REPLICAS = Capabilities(
    declared={
        **CAPABILITIES.declared,
        Capability.SKIPPED_STEPS: unsupported(
            "replicas that skip leave the others waiting for their gradients; return a loss multiplied by zero instead"
        ),
        Capability.SYNC_BATCHNORM: unsupported(
            "torch's SyncBatchNorm talks through torch.distributed, which is not there; take "
            'strategy="tpu_spmd", whose batch norm is over the whole batch'
        ),
        Capability.UNUSED_LEFT_OUT: unsupported(
            "replicas run the same graph, so each trained parameter has a gradient in each update; add "
            "0 * parameter.sum() to the loss"
        ),
    },
    precisions=PRECISIONS,
    conditions={"bf16-true": SUMS_NO_BFLOAT16},
)

_DEBUG = {"debug": True}

SPAWNED: Mapping[str, Mapping[str, Any]] = {
    "tpu_spawn": {},
    "tpu_spawn_debug": _DEBUG,
    "ddp": {},
    "ddp_spawn": {},
}
"""The aliases of TPUSpawnStrategy, each with what it stands for."""


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """One device, a replica for each, or all of them in one process."""
    for alias in ("single_tpu", "single_device"):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_tpu.strategy:SingleTPUStrategy",
            description="One process on one device of XLA's.",
            accelerators=("tpu",),
            capabilities=CAPABILITIES,
            requires=REQUIRES,
        )

    for alias, presets in SPAWNED.items():
        yield StrategySpec(
            alias=alias,
            target="torchrelay_tpu.spawn:TPUSpawnStrategy",
            description="A replica for each device of XLA's, each with the whole model; gradients are averaged.",
            accelerators=("tpu",),
            presets=presets,
            capabilities=REPLICAS,
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
def torchrelay_cluster_environments() -> Iterable[EnvironmentSpec]:
    """Replicas that XLA has started, which may be threads."""
    yield EnvironmentSpec(
        name="xla",
        target="torchrelay_tpu.environment:XLAEnvironment",
        description="XLA's own replicas.",
        priority=60,
    )


@hookimpl
def torchrelay_checkpoint_ios() -> Iterable[CheckpointIOSpec]:
    """Checkpoints whose tensors are on the CPU, for loops that hand over XLA's."""
    yield CheckpointIOSpec(
        name="xla",
        target="torchrelay_tpu.checkpoint_io:XLACheckpointIO",
        description="As torch, with tensors of XLA's copied to the CPU first.",
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether torch-xla is there, for this torch."""
    yield DiagnosticSpec(
        name="torch_xla",
        target="torchrelay_tpu.vendor:examined",
        description="torch-xla is compiled against one minor release of torch.",
    )
