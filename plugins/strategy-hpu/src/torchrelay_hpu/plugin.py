"""What this distribution provides, as data. Imports neither torch nor Habana's bridge."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    AcceleratorSpec,
    Capabilities,
    Capability,
    DiagnosticSpec,
    PrecisionSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    unsupported,
)

SDK = "1.19.0"
"""The release of Intel's Gaudi software whose published sources this package was written from."""

GUIDE = "https://docs.habana.ai/en/latest/Installation_Guide/index.html"

INSTALL = (
    f"habana-torch-plugin comes with Intel's Gaudi software (this package was written for {SDK}) and is on no package "
    f"index; {GUIDE} says how to install both"
)

REQUIRES = (Requirement(module="habana_frameworks", install=INSTALL),)

PRECISIONS = ("32-true", "bf16-true", "bf16-mixed", "16-mixed", "fp8")

FIRST_GENERATION = (
    "the first generation of Gaudi has no 16-bit floats but bf16; take precision='bf16-mixed'"
)

CONDITIONS = {
    "16-mixed": FIRST_GENERATION,
    "fp8": "the SDK says whether the device has fp8: Gaudi2 and later do; take precision='bf16-mixed'",
}

SINGLE_CAPABILITIES = Capabilities(
    declared={
        Capability.SYNC_BATCHNORM: unsupported("torch.nn.SyncBatchNorm runs on GPUs; leave it out"),
    },
    precisions=PRECISIONS,
    conditions=CONDITIONS,
)

PARALLEL_CAPABILITIES = Capabilities(
    declared={
        **SINGLE_CAPABILITIES.declared,
        Capability.CLOSURE_OPTIMIZERS: unsupported(
            "each rank would judge its own loss and call the closure a different number of times; use SGD or AdamW, "
            'or strategy="hpu_single"'
        ),
        Capability.SKIPPED_STEPS: unsupported(
            "ranks that skip leave the others waiting in the averaging of gradients; return a loss multiplied by zero "
            "instead"
        ),
    },
    precisions=PRECISIONS,
    conditions=CONDITIONS,
)


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """Intel's Gaudi."""
    yield AcceleratorSpec(
        name="hpu",
        target="torchrelay_hpu.accelerator:HPUAccelerator",
        probe="torchrelay_hpu.probe:hpus",
        description="Intel's Gaudi (Habana)",
        priority=56,
        # A process has one device, which it takes by its module id: a number can be asked for, and no list of indices.
        indexed=False,
        default_strategy="hpu_single",
        precisions=PRECISIONS,
        requires=REQUIRES,
    )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """One device, or one process a device."""
    for alias in ("hpu_single", "single_device"):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_hpu.strategy:SingleHPUStrategy",
            description="One process on one HPU",
            accelerators=("hpu",),
            capabilities=SINGLE_CAPABILITIES,
            requires=REQUIRES,
        )
    for alias in ("hpu_parallel", "ddp"):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_hpu.strategy:HPUParallelStrategy",
            description="One process an HPU, gradients averaged by HCCL",
            accelerators=("hpu",),
            capabilities=PARALLEL_CAPABILITIES,
            requires=REQUIRES,
        )


@hookimpl
def torchrelay_precision_plugins() -> Iterable[PrecisionSpec]:
    """8-bit floats, by the bridge's transformer engine."""
    yield PrecisionSpec(
        name="fp8",
        target="torchrelay_hpu.precision:FP8Precision",
        description="8-bit floats in layers of the bridge's transformer engine, bf16 elsewhere",
        accelerators=("hpu",),
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether the bridge is there and works with this torch."""
    yield DiagnosticSpec(
        name="habana",
        target="torchrelay_hpu.vendor:examined",
        description="habana-torch-plugin comes with Intel's Gaudi software, for one version of torch.",
    )
