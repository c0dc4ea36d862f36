"""What this distribution provides, as data. Imports neither torch nor torch-xla."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    AcceleratorSpec,
    Capabilities,
    DiagnosticSpec,
    Requirement,
    StrategySpec,
    hookimpl,
)

REQUIRES = (Requirement(module="torch_xla", install='pip install "torch==2.9.*" "torch-xla==2.9.*"'),)

PRECISIONS = ("32-true", "bf16-true", "bf16-mixed")

CAPABILITIES = Capabilities(precisions=PRECISIONS)


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """One device."""
    for alias in ("single_tpu", "single_device"):
        yield StrategySpec(
            alias=alias,
            target="torchrelay_tpu.strategy:SingleTPUStrategy",
            description="One process on one device of XLA's.",
            accelerators=("tpu",),
            capabilities=CAPABILITIES,
            requires=REQUIRES,
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
