"""What this distribution provides, as data. Imports neither torch nor FairScale."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    Capabilities,
    Capability,
    DiagnosticSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    partial,
    unsupported,
)

INSTALL = 'pip install "fairscale>=0.4.13,<0.5"'

REQUIRES = (Requirement(module="fairscale", install=INSTALL),)

SYNC_BATCHNORM_NEEDS_GPUS = "torch.nn.SyncBatchNorm runs on GPUs only; leave it out on the CPU"

_EACH_ITS_OWN_LOSS = (
    "each rank would judge its own loss and call the closure a different number of times; use SGD or Adam, or "
    'strategy="single_device"'
)

_OTHERS_WAIT = (
    "ranks that skip leave the others waiting for their gradients; return a loss multiplied by zero "
    "instead"
)

SHARDED = Capabilities(
    declared={
        Capability.SYNC_BATCHNORM: partial(SYNC_BATCHNORM_NEEDS_GPUS),
        Capability.CLOSURE_OPTIMIZERS: unsupported(_EACH_ITS_OWN_LOSS),
        Capability.SKIPPED_STEPS: unsupported(_OTHERS_WAIT),
    }
)

_PART_EACH = "each rank holds a part of them"

FULLY_SHARDED = Capabilities(
    declared={
        **SHARDED.declared,
        Capability.MANUAL_OPTIMIZATION: unsupported(
            "FairScale gathers weights around forward and frees them after it, and backward would run inside; leave "
            "automatic_optimization on, or use ddp_sharded"
        ),
        Capability.MULTIPLE_OPTIMIZERS: unsupported(
            "they are only of use to manual optimization; give one with several parameter groups, or use ddp_sharded"
        ),
        Capability.GRADIENTS_VISIBLE: unsupported(f"{_PART_EACH}, flattened; use ddp_sharded"),
        Capability.WHOLE_WEIGHTS: unsupported(f"{_PART_EACH}; use ddp_sharded"),
        Capability.UNUSED_LEFT_OUT: unsupported(
            "those of a unit are reduced and updated together, with zeros for what took no part, so that momentum and "
            "weight decay go on for it; use ddp_sharded"
        ),
        Capability.UNEVEN_EVALUATION: unsupported(
            "ranks gather each other's weights, so all of them have to take as many steps"
        ),
    },
    precisions=("32-true", "bf16-mixed", "16-mixed"),
)

NEEDS_STREAMS = (
    "FairScale's FullyShardedDataParallel computes on CUDA streams and fails without them; take a GPU, or "
    'strategy="ddp_sharded", which runs on the CPU too'
)

_NO_COLLECTIVES = "torch.distributed has no collectives there; take accelerator='cpu', or a GPU"

_UNUSED = {
    "": ({}, ""),
    "_find_unused_parameters_false": (
        {"find_unused_parameters": False},
        "; every parameter takes part in every step",
    ),
}

_STARTS = {
    "ddp_sharded": ("DDPShardedStrategy", "the script runs again in each"),
    "ddp_sharded_spawn": ("DDPSpawnShardedStrategy", "spawned from this one"),
}


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """Data parallel with the optimizer's state, or everything, divided between ranks."""
    for alias, (name, start) in _STARTS.items():
        for suffix, (presets, remark) in _UNUSED.items():
            yield StrategySpec(
                alias=alias + suffix,
                target=f"torchrelay_fairscale.strategy:{name}",
                description=f"One process a device, {start}; ranks divide the optimizer's state{remark}",
                accelerators=("cpu", "cuda"),
                presets=presets,
                capabilities=SHARDED,
                requires=REQUIRES,
                refusals={"mps": _NO_COLLECTIVES},
            )
    yield StrategySpec(
        alias="ddp_fully_sharded",
        target="torchrelay_fairscale.fully_sharded:DDPFullyShardedStrategy",
        description="One process a device; ranks divide parameters, gradients and the optimizer's state",
        accelerators=("cuda",),
        capabilities=FULLY_SHARDED,
        requires=REQUIRES,
        refusals={"cpu": NEEDS_STREAMS, "mps": NEEDS_STREAMS},
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """Whether FairScale is there, and the release that was run."""
    yield DiagnosticSpec(
        name="fairscale_version",
        target="torchrelay_fairscale.vendor:tested",
        description="FairScale is no longer developed; its last release was run with torch 2.13.",
    )
