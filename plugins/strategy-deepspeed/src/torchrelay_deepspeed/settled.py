"""The configuration that goes to DeepSpeed: the user's, with what the Trainer decides written in.

| DeepSpeed's key | the Trainer's argument | written, with the argument at its default |
|---|---|---|
| `gradient_accumulation_steps` | `accumulate_grad_batches` | an error above 1: the loop counts the batches |
| `gradient_clipping` | `gradient_clip_val` | taken |
| `bf16.enabled`, `fp16.enabled` | `precision` | an error if true: others ask the Trainer |
| `train_micro_batch_size_per_gpu`, `train_batch_size` | the DataLoader's `batch_size` | taken if it is unknown |

Equal values and "auto" are fine anywhere; everything else is an error that names both values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay.strategies.plan import Plan
from torchrelay_deepspeed.raw import RawConfig, without_auto

PRECISIONS: Mapping[str, str] = {"32-true": "fp32", "bf16-mixed": "bf16", "16-mixed": "fp16"}
"""Precision of the Trainer -> what DeepSpeed calls it."""


def settle(
    config: RawConfig,
    *,
    plan: Plan,
    precision: str,
    world_size: int = 1,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """What to hand to `deepspeed.initialize`; a new dict each time.

    Args:
        config: the user's.
        plan: what the user asked for of the Trainer, before anything is taken from it.
        precision: canonical name of the Trainer's precision.
        world_size: number of ranks.
        batch_size: of one rank's micro-batch; None if nobody knows.

    Raises:
        ConfigurationError: the configuration contradicts the Trainer's arguments, or no such precision is DeepSpeed's.
    """
    _accumulation(config, plan)
    values = without_auto(config.values)
    values.pop("train_batch_size", None)
    values.update(
        train_micro_batch_size_per_gpu=_batch_size(config, plan, world_size, batch_size),
        gradient_accumulation_steps=1,
        gradient_clipping=_clipping(config, plan),
        **_precisions(config, values, precision),
    )
    values.pop("bfloat16", None)
    # DeepSpeed refuses what it has not tested itself: SGD from stage 1 on, and any optimizer but its own on the CPU.
    values.setdefault("zero_allow_untested_optimizer", True)
    values.setdefault("zero_force_ds_cpu_optimizer", False)
    zero = {"stage": config.stage, **(values.get("zero_optimization") or {})}
    return {**values, **_optimizer(config, values), "zero_optimization": zero}


def _contradiction(config: RawConfig, path: str, argument: str, advice: str) -> ConfigurationError:
    return ConfigurationError(
        f"{config.says(path)} contradicts {argument}; take it out there, or write {advice}"
    )


def _accumulation(config: RawConfig, plan: Plan) -> None:
    key = "gradient_accumulation_steps"
    given = config.get(key)
    if given not in (None, plan.accumulate):
        argument = f"accumulate_grad_batches={plan.accumulate} of the Trainer"
        advice = f"Trainer(accumulate_grad_batches={given})"
        raise _contradiction(config, key, argument, advice)


def _clipping(config: RawConfig, plan: Plan) -> float:
    """The limit; 0 for none, which must be said, as DeepSpeed clips at 1 otherwise."""
    given = config.get("gradient_clipping")
    if plan.clip is None:
        return float(given or 0)
    if given not in (None, plan.clip.value):
        argument = f"gradient_clip_val={plan.clip.value} of the Trainer"
        advice = f"Trainer(gradient_clip_val={given or None})"
        raise _contradiction(config, "gradient_clipping", argument, advice)
    return plan.clip.value


def _precisions(config: RawConfig, values: Mapping[str, Any], precision: str) -> dict[str, Any]:
    if precision not in PRECISIONS:
        raise ConfigurationError(
            f"precision={precision!r} is none of DeepSpeed's: {', '.join(PRECISIONS)}"
        )
    argument = f"precision={precision!r} of the Trainer"
    chosen = PRECISIONS[precision]
    for path in ("bf16.enabled", "bfloat16.enabled", "fp16.enabled"):
        name = path.partition(".")[0].replace("bfloat16", "bf16")
        given = config.get(path)
        if given is not None and bool(given) != (name == chosen):
            wanted = name if given else "fp32"
            raise _contradiction(config, path, argument, _trainer_precision(wanted))
    parameters = config.get("data_types.param_dtype")
    if parameters not in (None, chosen):
        advice = _trainer_precision(str(parameters))
        raise _contradiction(config, "data_types.param_dtype", argument, advice)
    brain = values.get("bf16") or values.get("bfloat16") or {}
    half = values.get("fp16") or {}
    return {
        "bf16": {**brain, "enabled": chosen == "bf16"},
        "fp16": {**half, "enabled": chosen == "fp16"},
    }


def _trainer_precision(name: str) -> str:
    known = {theirs: ours for ours, theirs in PRECISIONS.items()}
    return f"Trainer(precision={known.get(name, '32-true')!r})"


def _batch_size(config: RawConfig, plan: Plan, world_size: int, known: int | None) -> int:
    """Size of one rank's micro-batch, which DeepSpeed wants for its reports; 1 where nobody tells."""
    micro, total = config.get("train_micro_batch_size_per_gpu"), config.get("train_batch_size")
    if None not in (micro, known) and micro != known:
        argument = f"batch_size={known} of the DataLoader"
        advice = f"DataLoader(..., batch_size={micro})"
        raise _contradiction(config, "train_micro_batch_size_per_gpu", argument, advice)
    size = known or micro
    if total is None:
        return int(size or 1)
    together = plan.accumulate * world_size
    least = size or max(1, int(total) // together)
    if least * together != total:
        raise _contradiction(
            config,
            "train_batch_size",
            f"{least} samples a batch on each of {world_size} ranks with accumulate_grad_batches={plan.accumulate} of "
            f"the Trainer, {least * together} an update",
            "a batch_size, devices and accumulate_grad_batches that multiply to it",
        )
    return int(least)


def _optimizer(config: RawConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Adam by name is torch's where nothing is offloaded: DeepSpeed's would first be compiled, for minutes."""
    section = values.get("optimizer")
    if section is None:
        return {}
    parameters = dict(section.get("params") or {})
    is_adam = str(config.optimizer).lower() in ("adam", "adamw")
    if is_adam and not config.offload("optimizer") and parameters.setdefault("torch_adam", True):
        # torch's AdamW, which DeepSpeed takes for both names, decays by default; DeepSpeed's own does not.
        parameters.setdefault("weight_decay", 0.0)
    return {"optimizer": {**section, "params": parameters}}
