"""What this distribution provides, as data. Imports neither torch nor Bagua."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torchrelay.plugin import (
    Capabilities,
    Capability,
    Declaration,
    DiagnosticSpec,
    EnvironmentSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    unsupported,
)

RELEASE = "0.9.3.dev6"
"""Bagua's last release, of May 2023, against whose wheel this package was written."""

WHEELS = ("10.2", "11.1", "11.3", "11.5", "11.6", "11.7")
"""The versions of CUDA that there are wheels for: `bagua-cuda117` is for 11.7."""

PYTHONS = ((3, 7), (3, 10))
"""The first and the last Python that there are wheels for, on Linux x86-64."""

INSTALL = (
    f"Bagua's last wheels ({RELEASE}, May 2023) are for Python 3.7 to 3.10 and CUDA {', '.join(WHEELS)}, on Linux "
    f"x86-64: pip install bagua-cuda117=={RELEASE} 'pydantic<2' nvidia-nccl-cu11; for another Python or CUDA, build it "
    "from its sources, https://github.com/BaguaSys/bagua, or take strategy='ddp'"
)

REQUIRES = (Requirement(module="bagua", install=INSTALL),)

PRECISIONS = ("32-true", "16-true", "16-mixed", "bf16-mixed")

UNSCALED = ("32-true", "16-true", "bf16-mixed")
"""Those whose loss is not scaled."""

ACCELERATORS = {"cuda"}
"""The accelerators that it runs on; tests add the one that stands in for GPUs."""

NOT_THE_CPU = (
    "Bagua communicates by NCCL, from GPU to GPU, and cannot use the processor; take strategy='ddp'"
)

_COMMON: Mapping[Capability, Declaration] = {
    Capability.CLOSURE_OPTIMIZERS: unsupported(
        "Bagua cannot send the state of LBFGS, and each rank would call the closure a different number of times; use "
        'SGD or Adam, or strategy="single_device"'
    ),
    Capability.SKIPPED_STEPS: unsupported(
        "ranks that skip leave the others waiting in Bagua's communication; return a loss multiplied by zero instead"
    ),
    Capability.SYNC_BATCHNORM: unsupported(
        "it has not been tried beside Bagua's communication; leave it out, or take strategy='ddp'"
    ),
    Capability.UNUSED_LEFT_OUT: unsupported(
        "Bagua gives every parameter a gradient of zero when it wraps the model, so none is left out of an update"
    ),
}

_BY_HAND = unsupported(
    "backward passes are not known to belong to an update, and only strategy='bagua' averages gradients of its own "
    "accord before one; take it"
)

_EIGHT_BITS = unsupported(
    "gradients travel in 8 bits, so their average is rounded; take strategy='bagua'"
)

_WEIGHTS = unsupported(
    "weights are averaged and gradients are not: ranks differ between averages; take strategy='bagua'"
)

_LOCAL = unsupported(
    "gradients are each rank's own, as it is weights that are averaged; take strategy='bagua'"
)

_MOMENTUM = unsupported(
    "after its warm-up QAdam has put gradients into the momentum, and sent it, before anyone reads or clips them; take "
    "strategy='bagua'"
)


def _capabilities(
    declared: Mapping[Capability, Declaration], precisions: tuple[str, ...] = PRECISIONS
) -> Capabilities:
    return Capabilities(declared={**_COMMON, **declared}, precisions=precisions)


CAPABILITIES: Mapping[str, Capabilities] = {
    "gradient_allreduce": _capabilities({}),
    "bytegrad": _capabilities(
        {
            Capability.EXACT_AVERAGING: _EIGHT_BITS,
            Capability.MANUAL_OPTIMIZATION: _BY_HAND,
        }
    ),
    **{
        name: _capabilities(
            {
                Capability.EXACT_AVERAGING: _WEIGHTS,
                Capability.MANUAL_OPTIMIZATION: _BY_HAND,
                Capability.CLIP_BY_NORM: _LOCAL,
                Capability.CLIP_BY_VALUE: _LOCAL,
            },
            # A scaler skips a step on the rank whose gradients overflow, and this one communicates in the step.
            UNSCALED if name == "low_precision_decentralized" else PRECISIONS,
        )
        for name in ("decentralized", "low_precision_decentralized", "async")
    },
    "qadam": _capabilities(
        {
            Capability.EXACT_AVERAGING: _EIGHT_BITS,
            Capability.MANUAL_OPTIMIZATION: _BY_HAND,
            Capability.CLIP_BY_NORM: _MOMENTUM,
            Capability.CLIP_BY_VALUE: _MOMENTUM,
            Capability.GRADIENTS_VISIBLE: _MOMENTUM,
        },
        # The momentum would be of scaled gradients.
        UNSCALED,
    ),
}
"""What each algorithm of Bagua's can do, by its name there."""

DESCRIPTIONS: Mapping[str, str] = {
    "gradient_allreduce": "One process a GPU; Bagua averages gradients while backward runs",
    "bytegrad": "Bagua averages gradients in 8 bits, which rounds them",
    "decentralized": "Bagua averages weights with other ranks while each takes its own step",
    "low_precision_decentralized": "Bagua exchanges differences of weights with two neighbors, in 8 bits",
    "async": "Bagua averages weights in the background, every so many milliseconds",
    "qadam": "Bagua averages QAdam's momentum in 8 bits, after a warm-up",
}


def alias_of(algorithm: str) -> str:
    """The alias under which an algorithm of Bagua's is had."""
    return "bagua" if algorithm == "gradient_allreduce" else f"bagua_{algorithm}"


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """One alias for each algorithm."""
    for name, description in DESCRIPTIONS.items():
        yield StrategySpec(
            alias=alias_of(name),
            target="torchrelay_bagua.strategy:BaguaStrategy",
            description=description,
            accelerators=("cuda",),
            presets={"algorithm": name},
            capabilities=CAPABILITIES[name],
            requires=REQUIRES,
            refusals={"cpu": NOT_THE_CPU, "mps": NOT_THE_CPU},
        )


@hookimpl
def torchrelay_cluster_environments() -> Iterable[EnvironmentSpec]:
    """Processes that Bagua's launchers started; one of them is torchrun underneath."""
    yield EnvironmentSpec(
        name="bagua",
        target="torchrelay_bagua.environment:BaguaEnvironment",
        description="bagua.distributed.launch, bagua.distributed.run, baguarun.",
        priority=55,
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether Bagua is there, and can be for this Python and this torch."""
    yield DiagnosticSpec(
        name="bagua",
        target="torchrelay_bagua.vendor:examined",
        description="Bagua has wheels for Python 3.7 to 3.10, each for one CUDA.",
    )
