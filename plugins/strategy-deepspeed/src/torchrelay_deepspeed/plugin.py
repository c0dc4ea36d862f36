"""What this distribution provides, as data. Imports neither torch nor DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torchrelay.plugin import (
    Capabilities,
    Capability,
    CheckpointFormatSpec,
    Declaration,
    DiagnosticSpec,
    Requirement,
    StrategySpec,
    hookimpl,
    partial,
    unsupported,
)

if TYPE_CHECKING:
    from torchrelay_deepspeed.config import Preset

INSTALL = 'pip install "deepspeed>=0.19.8,<0.20"'

STAGES = (0, 1, 2, 3)
"""ZeRO's stages."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

REQUIRES = (Requirement(module="deepspeed", install=INSTALL),)

SYNC_BATCHNORM_NEEDS_GPUS = "torch.nn.SyncBatchNorm runs on GPUs only; leave it out on the CPU"

FP16_NEEDS_HARDWARE = (
    "DeepSpeed computes in fp16 only where the CPU can; take bf16-mixed, or 32-true"
)

_ONE_OPTIMIZER = "its engine holds one optimizer; give one with several parameter groups"

UPDATES_ALWAYS = (
    "its engine would add the gradients to those of the next update; call optimizer.step() each time, with a loss "
    "multiplied by zero where nothing is to change"
)

_EVERY_STAGE: Mapping[Capability, Declaration] = {
    Capability.MANUAL_OPTIMIZATION: unsupported(
        "its engine makes the update, and keeps the gradients to itself; leave automatic_optimization on"
    ),
    Capability.MULTIPLE_OPTIMIZERS: unsupported(_ONE_OPTIMIZER),
    Capability.CLOSURE_OPTIMIZERS: unsupported(
        "its engine makes one update for one backward; use SGD or Adam"
    ),
    Capability.CLIP_BY_VALUE: unsupported(
        "its engine clips by the norm of all gradients; write gradient_clip_algorithm='norm'"
    ),
    Capability.SKIPPED_STEPS: unsupported(
        "ranks that skip leave the others waiting in the averaging of gradients; "
        "return a loss multiplied by zero instead"
    ),
    Capability.CUSTOM_OPTIMIZER_STEP: partial(UPDATES_ALWAYS),
    Capability.SYNC_BATCHNORM: partial(SYNC_BATCHNORM_NEEDS_GPUS),
    Capability.UNUSED_LEFT_OUT: unsupported(
        "it counts as having a gradient of zero, so that momentum and weight decay go on for it; take ddp where it is "
        "to stay as it is"
    ),
}

_SCALED = "under precision='16-mixed' they are scaled until the update; take bf16-mixed or 32-true"

_DIVIDED = "each rank averages its part of the gradients only, and parameters have none, or another; use stage 0"

_SHARDED: Mapping[Capability, Declaration] = {
    Capability.WHOLE_WEIGHTS: unsupported("each rank holds a part of them; use stage 2"),
    Capability.UNEVEN_EVALUATION: unsupported(
        "ranks gather each other's weights, so all of them have to take as many steps"
    ),
}


def _of_stage(stage: int) -> Capabilities:
    gradients = unsupported(_DIVIDED) if stage else partial(_SCALED)
    return Capabilities(
        declared={
            **_EVERY_STAGE,
            Capability.GRADIENTS_VISIBLE: gradients,
            **(_SHARDED if stage == 3 else {}),
        },
        precisions=PRECISIONS,
        conditions={"16-mixed": FP16_NEEDS_HARDWARE},
    )


CAPABILITIES: Mapping[int, Capabilities] = {stage: _of_stage(stage) for stage in STAGES}
"""ZeRO stage -> what a strategy of that stage can do."""

_DIVIDES = (
    "nothing is divided between ranks",
    "ranks divide the optimizer's state",
    "ranks divide the optimizer's state and the gradients",
    "ranks divide the optimizer's state, the gradients and the parameters",
)

_OFFLOADS = {
    "deepspeed_stage_2_offload": "; the optimizer runs on the CPU",
    "deepspeed_stage_3_offload": "; the optimizer runs on the CPU, parameters are kept there",
    "deepspeed_stage_3_offload_nvme": "; optimizer and parameters are kept on NVMe",
}


def _spec(alias: str, preset: Preset | None) -> StrategySpec:
    stage = preset.stage if preset else 2
    by_default = "" if preset else ", unless the configuration says otherwise"
    return StrategySpec(
        alias=alias,
        target="torchrelay_deepspeed.strategy:DeepSpeedStrategy",
        description=f"ZeRO stage {stage}{by_default}: {_DIVIDES[stage]}{_OFFLOADS.get(alias, '')}",
        accelerators=("cpu", "cuda"),
        presets={"config": preset} if preset else {},
        capabilities=CAPABILITIES[stage],
        requires=REQUIRES,
        refusals={
            "mps": "torch.distributed has no collectives there; take accelerator='cpu', or a GPU"
        },
    )


@hookimpl
def torchrelay_strategies() -> Iterable[StrategySpec]:
    """DeepSpeed by its ZeRO stages."""
    from torchrelay_deepspeed.presets import PRESETS

    yield _spec("deepspeed", None)
    for alias, preset in PRESETS.items():
        yield _spec(alias, preset)


@hookimpl
def torchrelay_checkpoint_formats() -> Iterable[CheckpointFormatSpec]:
    """The folder to which each rank adds its part."""
    yield CheckpointFormatSpec(
        name="deepspeed",
        target="torchrelay_deepspeed.conversion:read",
        recognizes="torchrelay_deepspeed.folder:is_native",
        description="A folder that DeepSpeed wrote, a file or more from each rank.",
    )


@hookimpl
def torchrelay_diagnostics() -> Iterable[DiagnosticSpec]:
    """What DeepSpeed needs of the machine."""
    checks = "torchrelay.plugin.checks"
    for name, target, description in (
        (
            "deepspeed_version",
            "torchrelay_deepspeed.vendor:tested",
            "Its options change from one release to the next.",
        ),
        ("cxx_compiler", f"{checks}:cxx_compiler", "Compiles DeepSpeed's extensions on first use."),
        ("ninja", f"{checks}:ninja", "Builds DeepSpeed's extensions on first use."),
        (
            "extension_locks",
            f"{checks}:extension_locks",
            "A lock that a killed build left makes whoever loads the extension wait for ever.",
        ),
    ):
        yield DiagnosticSpec(name=name, target=target, description=description)
    yield DiagnosticSpec(
        name="libaio",
        target="torchrelay_deepspeed.refused:libaio",
        description="What is kept on NVMe is read and written with it.",
        optional=True,
    )
