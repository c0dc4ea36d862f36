"""What this distribution provides, as data. Imports neither torch nor Horovod."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    Capabilities,
    Capability,
    DiagnosticSpec,
    EnvironmentSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    unsupported,
)

BUILD = "torchrelay-horovod build"
"""The command that builds Horovod for the torch that is installed, and installs it."""

REQUIRES = (Requirement(module="horovod", install=BUILD),)

CAPABILITIES = Capabilities(
    declared={
        Capability.CLOSURE_OPTIMIZERS: unsupported(
            "each rank would judge its own loss and call the closure a different number of times; use SGD or Adam, or "
            'strategy="single_device"'
        ),
        Capability.SKIPPED_STEPS: unsupported(
            "ranks that skip leave the others waiting for their gradients; return a loss multiplied by zero "
            "instead"
        ),
        Capability.SYNC_BATCHNORM: unsupported(
            "Horovod's SyncBatchNorm runs on GPUs only, and torch's talks through torch.distributed, which is not "
            'there; leave it out, or take strategy="ddp" on GPUs'
        ),
    }
)


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """Data parallel by Horovod."""
    yield StrategySpec(
        alias="horovod",
        target="torchrelay_horovod.strategy:HorovodStrategy",
        description="One process a device; Horovod averages gradients, under horovodrun or started by itself",
        accelerators=("cpu", "cuda"),
        capabilities=CAPABILITIES,
        requires=REQUIRES,
        refusals={"mps": "Horovod has no operations there; take accelerator='cpu', or a GPU"},
    )


@hookimpl
def torchrelay_cluster_environments() -> Iterable[EnvironmentSpec]:
    """Processes that horovodrun started, which may itself run in a job of SLURM or LSF."""
    yield EnvironmentSpec(
        name="horovod",
        target="torchrelay_horovod.environment:HorovodEnvironment",
        description="horovodrun, elastic included.",
        priority=45,
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether Horovod is there, for this torch and with gloo, and what it is built with."""
    yield DiagnosticSpec(
        name="horovod_build",
        target="torchrelay_horovod.vendor:examined",
        description="Horovod is compiled against one torch, and needs gloo or MPI.",
    )
    yield DiagnosticSpec(
        name="cxx_compiler",
        target="torchrelay.plugin.checks:cxx_compiler",
        description="Horovod has no wheels; a C++ compiler builds it.",
        optional=True,
    )
