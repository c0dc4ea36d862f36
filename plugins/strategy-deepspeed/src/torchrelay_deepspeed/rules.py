"""What no configuration of DeepSpeed may ask for, whoever wrote it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal

from torchrelay.errors import ConfigurationError
from torchrelay_deepspeed import keys
from torchrelay_deepspeed.plugin import STAGES
from torchrelay_deepspeed.raw import AUTO, RawConfig

NUMBERS = {
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0,
    "train_batch_size": 1,
    "train_micro_batch_size_per_gpu": 1,
}
"""What the Trainer is compared with -> the least that makes sense."""


def check(config: RawConfig) -> RawConfig:
    """Return the configuration as it is.

    Raises:
        ConfigurationError: it has keys that DeepSpeed does not know, or asks for what cannot be.
    """
    for judge in (_keys, _numbers, _stage, _offload, _precision, _engine, _named):
        found = list(judge(config))
        if found:
            raise ConfigurationError(f"{config.where}: {'; '.join(found)}")
    return config


def _keys(config: RawConfig) -> Iterator[str]:
    yield from keys.complaints(config.values)


def _numbers(config: RawConfig) -> Iterator[str]:
    for key, least in NUMBERS.items():
        value = config.get(key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and value >= least):
            yield f'"{key}" is a number from {least}, or "auto", not {value!r}'


def _stage(config: RawConfig) -> Iterator[str]:
    stage = config.get("zero_optimization.stage")
    if stage is not None and (isinstance(stage, bool) or stage not in STAGES):
        yield f'the ZeRO stage ("zero_optimization.stage") is 0, 1, 2 or 3, not {stage!r}'


def _offload(config: RawConfig) -> Iterator[str]:
    for what in ("optimizer", "param"):
        device = config.get(f"zero_optimization.offload_{what}.device")
        if device not in (None, "none", "cpu", "nvme"):
            yield f'"offload_{what}" goes to the device "cpu" or "nvme", not to {device!r}'
    if config.offload("param") and config.stage < 3:
        yield (
            f'parameters are offloaded ("offload_param") at stage 3 alone, and this is stage {config.stage}, '
            "where DeepSpeed would not do it, and not say so; take stage 3, or offload the optimizer only"
        )
    if config.offload("optimizer") and config.stage < 1:
        yield 'the optimizer is offloaded ("offload_optimizer") from stage 1 on, and this is stage 0'
    yield from _nvme(config, "optimizer")
    yield from _nvme(config, "param")
    on_disk = [config.offload(what).get("device") == "nvme" for what in ("optimizer", "param")]
    if all(on_disk) and config.offload("optimizer").get("fast_init"):
        yield (
            '"offload_optimizer" has "fast_init" where "offload_param" is on "nvme" too: DeepSpeed would begin with '
            "other weights than the model's, and not say so; take it out"
        )


def _nvme(config: RawConfig, what: Literal["optimizer", "param"]) -> Iterator[str]:
    offload = config.offload(what)
    if offload.get("device") != "nvme":
        return
    if what == "optimizer" and config.stage < 3:
        yield (
            f'"offload_optimizer" goes to "nvme" at stage 3 alone, and this is stage {config.stage}, where DeepSpeed '
            'would use CPU memory, and not say so; take stage 3, or the device "cpu"'
        )
    if not isinstance(offload.get("nvme_path"), (str, os.PathLike)):
        yield (
            f'"offload_{what}" goes to "nvme" without "nvme_path" (`path` of Offload); name a folder on the NVMe disk'
        )


def _precision(config: RawConfig) -> Iterator[str]:
    if "bf16" in config.values and "bfloat16" in config.values:
        yield '"bf16" and its older name "bfloat16" are both there, and DeepSpeed reads the first; join them'
    if config.get("torch_autocast.enabled"):
        yield (
            '"torch_autocast" would choose a precision behind the Trainer\'s back; take it out, and write '
            'Trainer(precision="bf16-mixed"), or precision="16-mixed"'
        )


def _engine(config: RawConfig) -> Iterator[str]:
    if config.get("managed_gradient_accumulation") is False:
        yield (
            '"managed_gradient_accumulation" stays on under torchrelay, which tells the engine where an update is due; '
            "take it out"
        )
    if config.get("checkpoint.load_universal"):
        yield (
            '"checkpoint.load_universal" is for a form that nobody has to make: torchrelay takes up what any number of '
            "ranks has saved; take it out, and give the folder itself as ckpt_path"
        )
    if config.get("compile.deepcompile"):
        yield (
            '"compile.deepcompile" works through engine.compile(), which nobody would call; take it out, and use '
            "torch.compile"
        )


def _named(config: RawConfig) -> Iterator[str]:
    for what in ("optimizer", "scheduler"):
        section = config.get(what)
        if section is None:
            continue
        if not isinstance(section.get("type"), str):
            yield f'"{what}" has no "type"; name it there, or take the section out'
        parameters = section.get("params") or {}
        if not isinstance(parameters, Mapping):
            yield f'"{what}.params" has to be a section of its own, not {parameters!r}'
            continue
        for key, value in parameters.items():
            if value == AUTO:
                yield f'"{what}.params.{key}" is "auto", and nobody fills it in; write the value'
    if config.get("optimizer.params.max_grad_norm") is not None:
        yield (
            '"optimizer.params.max_grad_norm" is not a way to clip; take it out, and write '
            "Trainer(gradient_clip_val=...)"
        )
