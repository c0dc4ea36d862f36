"""What this distribution provides, as data. Imports neither torch nor PopTorch."""

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
    partial,
    unsupported,
)

SDK = "3.4.0"
"""The release of Graphcore's Poplar SDK whose published sources this package was written from."""

GUIDE = "https://docs.graphcore.ai/projects/poptorch-user-guide/en/latest/installation.html"

INSTALL = (
    f"PopTorch comes with Graphcore's Poplar SDK (this package was written for {SDK}) and is on no package index; "
    f"{GUIDE} says how to install its wheel and enable the SDK"
)

REQUIRES = (Requirement(module="poptorch", install=INSTALL),)

PRECISIONS = ("32-true", "16-true")

TRACED_ONCE = (
    "Python in a step runs once, when it is traced, so that no batch can be skipped or use other layers than the rest "
    "(which leaves parameters unused); write it with operations on tensors"
)

_INSIDE = "the update is part of the compiled step"

CAPABILITIES = Capabilities(
    declared={
        Capability.MANUAL_OPTIMIZATION: unsupported(
            f"{_INSIDE}; return the loss, with automatic_optimization = True"
        ),
        Capability.MULTIPLE_OPTIMIZERS: unsupported(
            "one optimizer is compiled into the step; give one, with a group of parameters for each setting"
        ),
        Capability.CLOSURE_OPTIMIZERS: unsupported(
            "the compiled step has no closure; use SGD, Adam or AdamW"
        ),
        Capability.CUSTOM_OPTIMIZER_STEP: unsupported(
            f"{_INSIDE}; leave optimizer_step out, and change learning rates by a scheduler"
        ),
        Capability.CLIP_BY_NORM: partial("PopTorch's SGD, Adam and AdamW clip; others do not"),
        Capability.CLIP_BY_VALUE: unsupported(
            "PopTorch's optimizers clip by norm alone; use gradient_clip_algorithm='norm'"
        ),
        Capability.GRADIENTS_VISIBLE: unsupported(
            "gradients never leave the device; leave the hook out"
        ),
        Capability.SKIPPED_STEPS: unsupported(TRACED_ONCE),
        Capability.SYNC_BATCHNORM: unsupported(
            "PopTorch has no synchronised batch norm for replicas; leave it out"
        ),
        Capability.MULTIPLE_NODES: unsupported(
            "several hosts need Graphcore's PopRun, for which there is nothing here; use num_nodes=1"
        ),
        Capability.WHOLE_WEIGHTS: unsupported(
            "weights are on the device between updates; average saved checkpoints instead"
        ),
        Capability.UNUSED_LEFT_OUT: unsupported(TRACED_ONCE),
        Capability.EAGER_STEPS: unsupported(TRACED_ONCE),
    },
    precisions=PRECISIONS,
)


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """Graphcore's IPU."""
    yield AcceleratorSpec(
        name="ipu",
        target="torchrelay_ipu.accelerator:IPUAccelerator",
        probe="torchrelay_ipu.probe:ipus",
        description="Graphcore's IPU, or its emulator where POPTORCH_IPU_MODEL=1 asks for that",
        priority=55,
        # PopTorch takes whichever IPUs are free: a number can be asked for, and no list of indices.
        indexed=False,
        default_strategy="ipu_strategy",
        precisions=PRECISIONS,
        requires=REQUIRES,
    )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """One process that drives all IPUs."""
    for alias in ("ipu_strategy", "ipu"):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_ipu.strategy:IPUStrategy",
            description="Forward, backward and update compiled by PopTorch; one process drives all IPUs",
            accelerators=("ipu",),
            capabilities=CAPABILITIES,
            requires=REQUIRES,
            process_per_device=False,
        )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether PopTorch is there and works with this torch."""
    yield DiagnosticSpec(
        name="poptorch",
        target="torchrelay_ipu.vendor:examined",
        description="PopTorch comes with the Poplar SDK, for one version of torch.",
    )
