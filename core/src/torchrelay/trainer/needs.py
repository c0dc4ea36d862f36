"""What a run needs of its strategy, and the refusal of what cannot be had, before any process starts."""

from __future__ import annotations

from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.module import LightningModule, is_overridden
from torchrelay.plugin.specs import Capability
from torchrelay.strategies.plan import Needs
from torchrelay.strategies.strategy import Strategy
from torchrelay.trainer.options import Options


def refuse_unsupported(
    strategy: Strategy, options: Options, module: LightningModule | None = None, stage: str = "fit"
) -> None:
    """Refuse, before any process starts, what the strategy declares it cannot do.

    Raises:
        UnsupportedError: with every reason.
    """
    if module is not None and not module.automatic_optimization:
        refuse_automatic_arguments(options, module)
    needs = Needs(
        capabilities=_needed(strategy.num_nodes, options, module, stage),
        precision=strategy.precision_plugin.name,
        num_nodes=strategy.num_nodes,
        plan=options.plan,
    )
    reasons = strategy.refusals(needs)
    if reasons:
        raise UnsupportedError(f"{type(strategy).__name__} cannot do this: {'; '.join(reasons)}")


def refuse_automatic_arguments(options: Options, module: LightningModule) -> None:
    """Refuse arguments that only automatic optimization heeds.

    Raises:
        ConfigurationError: names them, and what to do in the module instead.
    """
    ignored = {
        f"accumulate_grad_batches={options.accumulate_grad_batches}": options.plan.accumulate > 1,
        f"gradient_clip_val={options.gradient_clip_val}": options.plan.clip is not None,
    }
    names = [name for name, is_set in ignored.items() if is_set]
    if names:
        raise ConfigurationError(
            f"{' and '.join(names)} would do nothing: {type(module).__name__} has automatic_optimization = False; "
            "leave it out and do it in training_step"
        )


def _needed(
    num_nodes: int, options: Options, module: LightningModule | None, stage: str
) -> dict[Capability, str]:
    """The capabilities that a run needs, each with where the need comes from."""
    n, clip = options.accumulate_grad_batches, options.plan.clip
    needed = {
        Capability.GRADIENT_ACCUMULATION: f"accumulate_grad_batches={n}" if n > 1 else "",
        Capability.CLIP_BY_NORM: "gradient_clip_val" if clip and clip.algorithm == "norm" else "",
        Capability.CLIP_BY_VALUE: "gradient_clip_val" if clip and clip.algorithm == "value" else "",
        Capability.MULTIPLE_NODES: f"num_nodes={num_nodes}" if num_nodes > 1 else "",
        Capability.SYNC_BATCHNORM: "sync_batchnorm=True" if options.sync_batchnorm else "",
    }
    if module is not None:
        name = type(module).__name__
        own_step = is_overridden("optimizer_step", module, LightningModule)
        own_validation = is_overridden("validation_step", module, LightningModule)
        during_fit = stage == "fit" and own_validation and options.limit("validate") != 0
        validates = f"{name}.validation_step" if during_fit else ""
        needed |= {
            Capability.MANUAL_OPTIMIZATION: "" if module.automatic_optimization else name,
            Capability.CUSTOM_OPTIMIZER_STEP: f"{name}.optimizer_step" if own_step else "",
            Capability.EVALUATION: stage if stage in ("validate", "test") else validates,
            Capability.PREDICTION: stage if stage == "predict" else "",
        }
    return {capability: origin for capability, origin in needed.items() if origin}
