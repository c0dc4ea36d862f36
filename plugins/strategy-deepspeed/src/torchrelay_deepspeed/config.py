"""DeepSpeed's configuration as frozen dataclasses. Imports neither torch nor DeepSpeed.

A field that is None is left to DeepSpeed. What the Trainer sets (precision, clipping, accumulation, batch size) has no
field: it is written once, by the Trainer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torchrelay.errors import ConfigurationError
from torchrelay_deepspeed.raw import RawConfig, merged, plain
from torchrelay_deepspeed.rules import check


def _count(value: Any) -> str:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    return "" if whole and value >= 0 else "a whole number from 0"


def _number(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "" if number and value >= 0 else "a number from 0"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "True or False"


def _one_of(*names: str) -> Callable[[Any], str]:
    def judge(value: Any) -> str:
        return "" if value in names else " or ".join(map(repr, names))

    return judge


def _at(key: str, judge: Callable[[Any], str] | None = None) -> dict[str, Any]:
    """Where a field is written, as a dotted key of DeepSpeed's, and what its values must be."""
    return {"key": key, "judge": judge}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of DeepSpeed's configuration."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, judge = getattr(self, each.name), each.metadata.get("judge")
            wanted = judge(value) if judge and value is not None else ""
            if wanted:
                raise ConfigurationError(
                    f"{type(self).__name__}: {each.name}={value!r} must be {wanted}"
                )

    def as_dict(self) -> dict[str, Any]:
        """As DeepSpeed writes it; without what is left to DeepSpeed."""
        result: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None or "key" not in each.metadata:
                continue
            *sections, key = each.metadata["key"].split(".")
            place = result
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = _written(value, each.metadata["judge"])
        return result


def _written(value: Any, judge: object) -> Any:
    if isinstance(value, Section):
        return value.as_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return int(value) if judge is _count else value


@dataclass(frozen=True, kw_only=True)
class Offload(Section):
    """Where state goes that the device has no room for.

    Attributes:
        device: "cpu" for CPU memory, "nvme" for a disk (stage 3).
        path: folder on that disk; it must be there and writable.
        pin_memory: whether CPU memory is page-locked, for fast transfers to a GPU.
        buffer_count: buffers for a disk.
    """

    device: Literal["cpu", "nvme"] = field(
        default="cpu", metadata=_at("device", _one_of("cpu", "nvme"))
    )
    path: str | os.PathLike[str] | None = field(default=None, metadata=_at("nvme_path"))
    pin_memory: bool | None = field(default=None, metadata=_at("pin_memory", _flag))
    buffer_count: int | None = field(default=None, metadata=_at("buffer_count", _count))


@dataclass(frozen=True, kw_only=True)
class OptimizerOffload(Offload):
    """Offload of the optimizer's state, with what only it can say.

    Attributes:
        pipeline_read: whether to read the next part from disk while this one is computed.
        pipeline_write: whether to write the last part to disk while this one is computed.
        fast_init: whether to initialize quickly on a disk; not where the parameters are on one too.
        ratio: share of the state that is offloaded, from 0 to 1; below 1 at stage 3 alone.
    """

    pipeline_read: bool | None = field(default=None, metadata=_at("pipeline_read", _flag))
    pipeline_write: bool | None = field(default=None, metadata=_at("pipeline_write", _flag))
    fast_init: bool | None = field(default=None, metadata=_at("fast_init", _flag))
    ratio: float | None = field(default=None, metadata=_at("ratio", _number))


@dataclass(frozen=True, kw_only=True)
class ParameterOffload(Offload):
    """Offload of the parameters, with what only it can say.

    Attributes:
        buffer_size: elements of each buffer for a disk.
        max_in_cpu: elements that stay in CPU memory though a disk is used.
    """

    buffer_size: int | None = field(default=None, metadata=_at("buffer_size", _count))
    max_in_cpu: int | None = field(default=None, metadata=_at("max_in_cpu", _count))


@dataclass(frozen=True, kw_only=True)
class AsyncIO(Section):
    """How a disk is read and written.

    Attributes:
        block_size: bytes of one request.
        queue_depth: requests under way at once.
        intra_op_parallelism: threads for one file.
        single_submit: whether requests are handed over one by one.
        overlap_events: whether handing over and waiting overlap.
    """

    block_size: int | None = field(default=None, metadata=_at("block_size", _count))
    queue_depth: int | None = field(default=None, metadata=_at("queue_depth", _count))
    intra_op_parallelism: int | None = field(
        default=None, metadata=_at("intra_op_parallelism", _count)
    )
    single_submit: bool | None = field(default=None, metadata=_at("single_submit", _flag))
    overlap_events: bool | None = field(default=None, metadata=_at("overlap_events", _flag))


@dataclass(frozen=True, kw_only=True)
class ActivationCheckpointing(Section):
    """How `deepspeed.checkpointing.checkpoint` keeps activations.

    Attributes:
        partition_activations: whether they are divided between model-parallel ranks.
        cpu_checkpointing: whether they are kept in CPU memory; needs partition_activations.
        contiguous_memory_optimization: whether they are copied into one buffer; needs number_checkpoints.
        number_checkpoints: how many there are in a forward.
        synchronize_checkpoint_boundary: whether the device is synchronised at each.
        profile: whether their times are measured.
    """

    partition_activations: bool | None = field(
        default=None, metadata=_at("partition_activations", _flag)
    )
    cpu_checkpointing: bool | None = field(default=None, metadata=_at("cpu_checkpointing", _flag))
    contiguous_memory_optimization: bool | None = field(
        default=None, metadata=_at("contiguous_memory_optimization", _flag)
    )
    number_checkpoints: int | None = field(default=None, metadata=_at("number_checkpoints", _count))
    synchronize_checkpoint_boundary: bool | None = field(
        default=None, metadata=_at("synchronize_checkpoint_boundary", _flag)
    )
    profile: bool | None = field(default=None, metadata=_at("profile", _flag))


@dataclass(frozen=True, kw_only=True)
class LossScaling(Section):
    """How losses are scaled under precision="16-mixed".

    Attributes:
        loss_scale: fixed scale; 0 for one that follows overflows.
        initial_scale_power: exponent of 2 of the first scale.
        loss_scale_window: updates without overflow after which the scale doubles.
        hysteresis: overflows before the scale is halved.
        consecutive_hysteresis: whether an update without overflow starts that count again.
        min_loss_scale: least scale.
    """

    loss_scale: float | None = field(default=None, metadata=_at("loss_scale", _number))
    initial_scale_power: int | None = field(
        default=None, metadata=_at("initial_scale_power", _count)
    )
    loss_scale_window: int | None = field(default=None, metadata=_at("loss_scale_window", _count))
    hysteresis: int | None = field(default=None, metadata=_at("hysteresis", _count))
    consecutive_hysteresis: bool | None = field(
        default=None, metadata=_at("consecutive_hysteresis", _flag)
    )
    min_loss_scale: int | None = field(default=None, metadata=_at("min_loss_scale", _count))


@dataclass(frozen=True)
class Named(Section):
    """An optimizer or a learning rate scheduler that DeepSpeed makes.

    Attributes:
        type: DeepSpeed's name of it, or for an optimizer a class of torch.optim.
        params: arguments of its constructor.
    """

    type: str = field(metadata=_at("type"))
    params: Mapping[str, Any] = field(default_factory=dict, metadata=_at("params"))

    def as_dict(self) -> dict[str, Any]:
        """As DeepSpeed writes it."""
        return plain(super().as_dict())


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig(Section):
    """What `DeepSpeedStrategy(config=...)` takes.

    Attributes:
        stage: ZeRO stage: 0 divides nothing between ranks, 1 the optimizer's state, 2 gradients as well, 3 parameters
            as well.
        offload_optimizer: where the optimizer's state goes; from stage 1 on.
        offload_parameters: where the parameters go; at stage 3.
        async_io: how NVMe is read and written.
        reduce_bucket_size: elements of gradients that are reduced at once.
        allgather_bucket_size: elements of parameters that are gathered at once, at stages 1 and 2.
        prefetch_bucket_size: elements of parameters that are fetched ahead, at stage 3.
        param_persistence_threshold: elements below which a parameter stays whole on each rank, at stage 3.
        max_live_parameters: elements of parameters that may be whole on a rank at once, at stage 3.
        max_reuse_distance: elements within which a parameter that is used again is kept, at stage 3.
        sub_group_size: elements that are updated at once, at stage 3.
        contiguous_gradients: whether gradients are copied into one buffer as they are made.
        overlap_comm: whether gradients are reduced during backward; DeepSpeed does so at stage 3.
        reduce_scatter: whether gradients are reduced and scattered rather than reduced on all.
        allgather_partitions: whether parameters are gathered rather than broadcast, at stages 1 and 2.
        round_robin_gradients: whether ranks take turns at copying gradients to CPU memory, at stages 1 and 2.
        zero_hpz_partition_size: ranks of a node that hold the parameters once more between them, at stage 3.
        zero_quantized_weights: whether parameters are gathered in int8, at stage 3.
        zero_quantized_gradients: whether gradients are reduced in int4, at stage 3.
        communication_data_type: "fp32", "fp16" or "bf16", in which gradients are reduced.
        prescale_gradients: whether gradients are divided before they are summed rather than after.
        gradient_predivide_factor: by what, then.
        loss_scaling: for precision="16-mixed".
        activation_checkpointing: for `deepspeed.checkpointing`.
        optimizer: the optimizer, instead of what `configure_optimizers` returns.
        scheduler: the learning rate scheduler, likewise.
        extra: any other key of DeepSpeed's, nested as in its own configuration.

    Raises:
        ConfigurationError: a value is none that the field takes, or fields contradict each other.
    """

    stage: int = field(default=2, metadata=_at("zero_optimization.stage"))
    offload_optimizer: Offload | None = field(
        default=None, metadata=_at("zero_optimization.offload_optimizer")
    )
    offload_parameters: Offload | None = field(
        default=None, metadata=_at("zero_optimization.offload_param")
    )
    async_io: AsyncIO | None = field(default=None, metadata=_at("aio"))
    reduce_bucket_size: int | None = field(
        default=None, metadata=_at("zero_optimization.reduce_bucket_size", _count)
    )
    allgather_bucket_size: int | None = field(
        default=None, metadata=_at("zero_optimization.allgather_bucket_size", _count)
    )
    prefetch_bucket_size: int | None = field(
        default=None, metadata=_at("zero_optimization.stage3_prefetch_bucket_size", _count)
    )
    param_persistence_threshold: int | None = field(
        default=None, metadata=_at("zero_optimization.stage3_param_persistence_threshold", _count)
    )
    max_live_parameters: int | None = field(
        default=None, metadata=_at("zero_optimization.stage3_max_live_parameters", _count)
    )
    max_reuse_distance: int | None = field(
        default=None, metadata=_at("zero_optimization.stage3_max_reuse_distance", _count)
    )
    sub_group_size: int | None = field(
        default=None, metadata=_at("zero_optimization.sub_group_size", _count)
    )
    contiguous_gradients: bool | None = field(
        default=None, metadata=_at("zero_optimization.contiguous_gradients", _flag)
    )
    overlap_comm: bool | None = field(
        default=None, metadata=_at("zero_optimization.overlap_comm", _flag)
    )
    reduce_scatter: bool | None = field(
        default=None, metadata=_at("zero_optimization.reduce_scatter", _flag)
    )
    allgather_partitions: bool | None = field(
        default=None, metadata=_at("zero_optimization.allgather_partitions", _flag)
    )
    round_robin_gradients: bool | None = field(
        default=None, metadata=_at("zero_optimization.round_robin_gradients", _flag)
    )
    zero_hpz_partition_size: int | None = field(
        default=None, metadata=_at("zero_optimization.zero_hpz_partition_size", _count)
    )
    zero_quantized_weights: bool | None = field(
        default=None, metadata=_at("zero_optimization.zero_quantized_weights", _flag)
    )
    zero_quantized_gradients: bool | None = field(
        default=None, metadata=_at("zero_optimization.zero_quantized_gradients", _flag)
    )
    communication_data_type: Literal["fp32", "fp16", "bf16"] | None = field(
        default=None, metadata=_at("communication_data_type", _one_of("fp32", "fp16", "bf16"))
    )
    prescale_gradients: bool | None = field(default=None, metadata=_at("prescale_gradients", _flag))
    gradient_predivide_factor: float | None = field(
        default=None, metadata=_at("gradient_predivide_factor", _number)
    )
    loss_scaling: LossScaling | None = field(default=None, metadata=_at("fp16"))
    activation_checkpointing: ActivationCheckpointing | None = field(
        default=None, metadata=_at("activation_checkpointing")
    )
    optimizer: Named | None = field(default=None, metadata=_at("optimizer"))
    scheduler: Named | None = field(default=None, metadata=_at("scheduler"))
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = RawConfig(super().as_dict(), "a field of its own")
        for path in _leaves(self.extra):
            if own.get(path) is not None:
                raise ConfigurationError(
                    f'DeepSpeedConfig: extra has "{path}", and so has {own.says(path)}; leave it out of extra'
                )
        check(RawConfig(self.as_dict(), "DeepSpeedConfig"))

    def as_dict(self) -> dict[str, Any]:
        """As DeepSpeed writes it, `extra` included; without what is left to DeepSpeed."""
        return merged(super().as_dict(), self.extra)


@dataclass(frozen=True, kw_only=True)
class Preset(DeepSpeedConfig):
    """What an alias stands for: a file that the environment names is read beside it.

    Attributes:
        alias: what the user writes in `Trainer(strategy=...)`.
    """

    alias: str


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        found += _leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return found
