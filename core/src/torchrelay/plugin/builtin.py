"""Core's own components, offered through the very hooks that other distributions use."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    AcceleratorSpec,
    CheckpointIOSpec,
    EnvironmentSpec,
    PrecisionSpec,
    StrategySpec,
    hookimpl,
)

_WHOLE = {
    "32-true": "Everything in 32-bit floating point.",
    "64-true": "Everything in 64-bit floating point.",
    "16-true": "Everything in 16-bit floating point, parameters included.",
    "bf16-true": "Everything in bfloat16, parameters included.",
}
_MIXED = {
    "16-mixed": "32-bit parameters; 16-bit arithmetic where that is safe, scaled gradients.",
    "bf16-mixed": "32-bit parameters; bfloat16 arithmetic where that is safe.",
}


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """Return single device."""
    yield StrategySpec(
        alias="single_device",
        target="torchrelay.strategies.single_device:SingleDeviceStrategy",
        description="One process on one device.",
    )


@hookimpl
def torchrelay_accelerators() -> Iterable[AcceleratorSpec]:
    """Return what torch itself can drive."""
    yield AcceleratorSpec(
        name="cpu",
        target="torchrelay.accelerators.cpu:CPUAccelerator",
        probe="torchrelay.accelerators.probes:cpu",
        description="The processor; a device is a process.",
        priority=0,
        indexed=False,
    )
    yield AcceleratorSpec(
        name="cuda",
        target="torchrelay.accelerators.cuda:CUDAAccelerator",
        probe="torchrelay.accelerators.probes:cuda",
        description="NVIDIA GPUs, and AMD GPUs with a ROCm build of torch.",
        priority=50,
    )
    yield AcceleratorSpec(
        name="mps",
        target="torchrelay.accelerators.mps:MPSAccelerator",
        probe="torchrelay.accelerators.probes:mps",
        description="The GPU of an Apple silicon Mac.",
        priority=40,
        # Metal has no 64-bit floating point.
        precisions=tuple(name for name in (*_WHOLE, *_MIXED) if name != "64-true"),
    )


@hookimpl
def torchrelay_cluster_environments() -> Iterable[EnvironmentSpec]:
    """Return the launchers and schedulers that core can recognise."""
    for name, class_name, priority, description in (
        ("torchrun", "TorchrunEnvironment", 50, "torchrun, elastic included."),
        ("slurm", "SLURMEnvironment", 40, "srun, in a SLURM job."),
        ("lsf", "LSFEnvironment", 30, "jsrun, in an LSF job."),
        ("kubeflow", "KubeflowEnvironment", 20, "Kubeflow's PyTorchJob."),
        ("mpi", "MPIEnvironment", 10, "mpirun."),
        ("local", "LocalEnvironment", 0, "Nobody else: torchrelay launches the processes."),
    ):
        yield EnvironmentSpec(
            name=name,
            target=f"torchrelay.environments.{name}:{class_name}",
            description=description,
            priority=priority,
        )


@hookimpl
def torchrelay_precision_plugins() -> Iterable[PrecisionSpec]:
    """Return the formats that torch itself knows."""
    for names, target in (
        (_WHOLE, "torchrelay.precision.true:TruePrecision"),
        (_MIXED, "torchrelay.precision.mixed:MixedPrecision"),
    ):
        for name, description in names.items():
            yield PrecisionSpec(
                name=name, target=target, description=description, presets={"name": name}
            )


@hookimpl
def torchrelay_checkpoint_ios() -> Iterable[CheckpointIOSpec]:
    """Return torch's own file format, written at once or in the background."""
    yield CheckpointIOSpec(
        name="torch",
        target="torchrelay.checkpoint.torch_io:TorchCheckpointIO",
        description="One file in torch.save's format, written whole or not at all.",
    )
    yield CheckpointIOSpec(
        name="async",
        target="torchrelay.checkpoint.async_io:AsyncCheckpointIO",
        description="As torch, but written in the background while training goes on.",
    )
