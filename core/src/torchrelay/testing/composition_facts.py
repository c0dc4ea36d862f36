"""What the checks of composition judge: the parts of a strategy, and a loop that is no Trainer's."""

from __future__ import annotations

import copy
from typing import Any

import torch

from torchrelay.plugin.targets import load_target
from torchrelay.strategies.components import Parts
from torchrelay.strategies.plan import Plan
from torchrelay.testing.context import Context, in_each_rank
from torchrelay.testing.models import Regression, samples

PARTS = (
    "accelerator",
    "precision_plugin",
    "checkpoint_io",
    "cluster_environment",
    "collectives",
)
OPTIONAL = ("launcher",)
BATCHES = 12


def compose(context: Context) -> None:
    """Look at the parts, try to replace each, then train without a Trainer."""
    strategy = context.trainer().strategy
    if context.is_first:
        context.write("parts", {name: _kinds(strategy, name) for name in (*PARTS, *OPTIONAL)})
        context.write("refused", {name: _replace(context, strategy, name) for name in PARTS})
        context.write("trainers", _trainers(strategy))
    in_each_rank(context, _drive)


def _kinds(strategy: Any, name: str) -> list[str]:
    """The names of a part's classes; none where it is not there."""
    try:
        part = getattr(strategy, name)
    except Exception:  # noqa: BLE001 - it is not there, which the check judges
        return []
    return [] if part is None else [kind.__name__ for kind in type(part).__mro__]


def _replace(context: Context, strategy: Any, name: str) -> str:
    """Why a strategy that is given a part of the user's does not have it; "" if it does."""
    try:
        own = copy.copy(getattr(strategy, name))
        made = _make(context, strategy, **{name: own})
        made.bind(
            Parts(
                accelerator=strategy.accelerator,
                precision_plugin=strategy.precision_plugin,
                checkpoint_io=strategy.checkpoint_io,
                cluster_environment=strategy.cluster_environment,
                devices=strategy.devices,
                num_nodes=strategy.num_nodes,
            )
        )
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        return f"{type(error).__name__}: {error}"
    return "" if getattr(made, name) is own else "another one is in its place"


def _make(context: Context, strategy: Any, **parts: Any) -> Any:
    """A strategy as the subject names it, with some parts given."""
    if context.subject.is_class:
        return load_target(context.subject.strategy)(**context.subject.presets, **parts)
    from torchrelay.plugin.registry import get_registry

    offer = get_registry().strategy(context.subject.strategy, strategy.accelerator.name)
    return load_target(offer.spec.target)(**offer.spec.presets, **parts)


def _trainers(strategy: Any) -> list[str]:
    """The attributes of a strategy that hold a Trainer."""
    from torchrelay.trainer.trainer import Trainer

    return [name for name, value in vars(strategy).items() if isinstance(value, Trainer)]


def _drive(strategy: Any, context: Context) -> None:
    """A loop of our own, after the plan that the strategy leaves."""
    rank, world_size = strategy.global_rank, strategy.world_size
    context.leave(
        "ranks",
        rank,
        {
            "rank": rank,
            "world_size": world_size,
            "collectives": (strategy.collectives.rank, strategy.collectives.world_size),
            "is_global_zero": strategy.is_global_zero,
            "node_rank": strategy.node_rank,
            "sampler": strategy.sampler_arguments,
        },
    )
    module = Regression()
    before = _weights(module)
    strategy.negotiate(Plan())
    try:
        strategy.setup(module, lambda m: ([torch.optim.SGD(m.parameters(), lr=0.05)], []))
        _train(strategy, _batches())
        after = {name: value.cpu() for name, value in strategy.model_state().items()}
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        context.leave("drive", rank, f"{type(error).__name__}: {error}")
        return
    context.leave("drive", rank, {"before": before, "after": after})


def _train(strategy: Any, batches: list[Any]) -> None:
    (optimizer,) = strategy.optimizers
    with strategy.stage("train"):
        for index, batch in enumerate(strategy.process_dataloader(batches, "train")):
            moved = strategy.batch_to_device(batch)

            def closure(moved: Any = moved, index: int = index) -> Any:
                strategy.zero_grad(optimizer)
                outputs = strategy.training_step(moved, index)
                loss = outputs["loss"] if isinstance(outputs, dict) else outputs
                strategy.backward(loss)
                strategy.finalize_gradients(optimizer)
                return loss

            strategy.optimizer_step(optimizer, closure)


def _batches() -> list[Any]:
    x, y = samples(BATCHES * 4).tensors
    return list(zip(torch.split(x, 4), torch.split(y, 4), strict=True))


def _weights(module: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
