"""What this distribution provides, as data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from torchrelay.plugin import (
    Capabilities,
    Capability,
    StrategySpec,
    hookimpl,
    partial,
    unsupported,
)

_EACH_ITS_OWN_LOSS = (
    "each rank would judge its own loss and call the closure a different number of times; use SGD or Adam, or "
    'strategy="single_device"'
)

_OTHERS_WAIT = (
    "ranks that skip leave the others waiting in the averaging of gradients, or pair gradients of different batches; "
    "return a loss multiplied by zero instead"
)

SYNC_BATCHNORM_NEEDS_GPUS = "torch.nn.SyncBatchNorm runs on GPUs only; leave it out on the CPU"

DDP_CAPABILITIES = Capabilities(
    declared={
        Capability.SYNC_BATCHNORM: partial(SYNC_BATCHNORM_NEEDS_GPUS),
        Capability.CLOSURE_OPTIMIZERS: unsupported(_EACH_ITS_OWN_LOSS),
        Capability.SKIPPED_STEPS: unsupported(_OTHERS_WAIT),
    }
)

_REPLICAS = "a training step runs on replicas that are thrown away after it; use ddp"

DP_CAPABILITIES = Capabilities(
    declared={
        Capability.MANUAL_OPTIMIZATION: unsupported(_REPLICAS),
        Capability.MULTIPLE_OPTIMIZERS: unsupported(_REPLICAS),
        Capability.SYNC_BATCHNORM: unsupported(
            "torch synchronises batch norm between processes; use ddp"
        ),
        Capability.MULTIPLE_NODES: unsupported("it is one process on one machine; use ddp"),
    }
)

DDP2_CAPABILITIES = Capabilities(
    declared={
        **DDP_CAPABILITIES.declared,
        Capability.MANUAL_OPTIMIZATION: unsupported(_REPLICAS),
        Capability.MULTIPLE_OPTIMIZERS: unsupported(_REPLICAS),
        Capability.SYNC_BATCHNORM: unsupported(
            "torch synchronises batch norm between processes, not inside one; use ddp"
        ),
    }
)

REPLICATES_ON_GPUS = (
    "torch.nn.DataParallel replicates a module between GPUs only; "
    'take strategy="ddp", which runs processes'
)

_STARTS = {
    "ddp": (
        "DDPStrategy",
        {},
        "One process a device, gradients averaged; the script runs again in each",
    ),
    "ddp_spawn": ("DDPSpawnStrategy", {}, "As ddp, in processes spawned from this one"),
    "ddp_fork": ("DDPSpawnStrategy", {"start_method": "fork"}, "As ddp, in forks of this process"),
    "ddp_notebook": (
        "DDPSpawnStrategy",
        {"start_method": "fork"},
        "As ddp_fork; the one for notebooks",
    ),
}

_UNUSED = {
    "": ({}, ""),
    "_find_unused_parameters_false": (
        {"find_unused_parameters": False},
        "; every parameter takes part in every step",
    ),
    "_find_unused_parameters_true": (
        {"find_unused_parameters": True},
        "; looks for parameters that take no part in a step",
    ),
}


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """DDP however its processes are started, DataParallel, and DDP2."""
    for alias, (name, start, description) in _STARTS.items():
        for suffix, (unused, remark) in _UNUSED.items():
            yield StrategySpec(
                alias=alias + suffix,
                target=f"torchrelay_ddp.strategy:{name}",
                description=description + remark,
                presets={**start, **unused},
                capabilities=DDP_CAPABILITIES,
            )
    yield StrategySpec(
        alias="dp",
        target="torchrelay_ddp.data_parallel:DataParallelStrategy",
        description="One process that splits each batch between the GPUs of one machine",
        accelerators=("cuda",),
        capabilities=DP_CAPABILITIES,
        refusals={"cpu": REPLICATES_ON_GPUS, "mps": REPLICATES_ON_GPUS},
        process_per_device=False,
    )
    yield StrategySpec(
        alias="ddp2",
        target="torchrelay_ddp.data_parallel:DDP2Strategy",
        description="One process a machine: dp inside it, ddp between them",
        capabilities=DDP2_CAPABILITIES,
        process_per_device=False,
    )
