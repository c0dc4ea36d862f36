"""Validation, test and prediction, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, zip_longest
from typing import Any

import torch

from torchrelay.errors import ConfigurationError
from torchrelay.profilers.watching import watched_items
from torchrelay.strategies.steps import takes_dataloader_idx
from torchrelay.trainer.data import Portion
from torchrelay.trainer.session import Session
from torchrelay.trainer.stages import STAGES


def evaluate(session: Session) -> list[dict[str, float]]:
    """Evaluate the data of the session's stage; the combined metrics, one dict a data loader."""
    stage = session.job.stage
    portions = session.loaders.evaluation(stage)
    evaluate_portions(session, stage, portions)
    return session.evaluation_metrics[stage].results(len(portions))


def predict(session: Session) -> list[Any] | None:
    """The predictions of all ranks, one entry a batch, a list for each of several loaders; None if nobody wants them.

    Collective.
    """
    portions = session.loaders.evaluation("predict")
    predictions = evaluate_portions(session, "predict", portions)
    if not session.job.keeps_predictions:
        return None
    each = [_gathered(session, *pair) for pair in zip(portions, predictions, strict=True)]
    return each[0] if len(each) == 1 else each


def evaluate_portions(
    session: Session, stage: str, portions: list[Portion], at_most: int | None = None
) -> list[list[Any]]:
    """Run the module over batches without gradients, in evaluation mode; training modes are put back after.

    Args:
        session: the run.
        stage: "validate", "test" or "predict".
        portions: the batches of each data loader.
        at_most: stop after so many of each.

    Returns:
        For each loader, what `predict_step` returned for each batch; nothing for the other stages.
    """
    hook = f"on_{STAGES[stage].hook}"
    strategy, call = session.strategy, session.hooks.call
    without_gradients = strategy.grad_off if session.options.inference_mode else torch.no_grad
    several = len(portions) > 1
    if several:
        _refuse_deaf_step(session, stage)
    results = []
    with evaluation_mode(session, hook):
        with session.entering(stage) as metrics, strategy.stage(stage), without_gradients():
            call(f"{hook}_start")
            call(f"{hook}_epoch_start")
            for number, portion in enumerate(portions):
                portion.set_epoch(session.progress.epoch)
                metrics.in_step, metrics.dataloader_idx = True, number if several else None
                results.append(_batches(session, stage, portion, metrics.dataloader_idx, at_most))
            metrics.in_step, metrics.dataloader_idx = False, None
            if stage == "validate":
                session.validated_at = session.progress.batches
            metrics.close_epoch(reset=False)
            call(f"{hook}_epoch_end")
            metrics.close_epoch()
        session.send_epoch_metrics(metrics)
        call(f"{hook}_end")
    return results


@contextmanager
def evaluation_mode(session: Session, hook: str) -> Iterator[None]:
    """Evaluation mode, after which each part of the module has the mode that it had, or the one its hook gives."""
    module = session.module
    modes = {part: part.training for part in module.modules()}
    getattr(module, f"{hook}_model_eval")()
    put_back = session.own(f"{hook}_model_train")
    try:
        yield
    finally:
        if put_back is not None:
            put_back()
        else:
            for part, training in modes.items():
                part.training = training


def _batches(
    session: Session,
    stage: str,
    portion: Portion,
    dataloader_idx: int | None,
    at_most: int | None,
) -> list[Any]:
    hook, step = STAGES[stage].hook, STAGES[stage].step
    on_start = session.hooks.get(f"on_{hook}_batch_start")
    on_end = session.hooks.get(f"on_{hook}_batch_end")
    strategy, metrics = session.strategy, session.metrics
    move = session.mover(dataloader_idx or 0)
    which = () if dataloader_idx is None else (dataloader_idx,)
    interruption = session.interruption
    keep = stage == "predict" and session.job.keeps_predictions
    results = []
    action = f"{STAGES[stage].short}_dataloader_next"
    batches = watched_items(session.watcher, action, portion.batches())
    for i, (batch, _) in enumerate(islice(batches, at_most)):
        if portion.indices is not None:
            session.batch_indices = portion.indices.take()
        if move is not None:
            batch = move(batch)
        metrics.batch = batch
        if on_start is not None:
            on_start(batch, i, *which)
        outputs = strategy.evaluation_step(step, batch, i, *which)
        if keep:
            results.append(outputs)
        if on_end is not None:
            on_end(outputs, batch, i, *which)
        if interruption.request.number and not session.mid_window():
            interruption.look_in_validation()
    session.batch_indices = None
    return results


def _refuse_deaf_step(session: Session, stage: str) -> None:
    step = STAGES[stage].step
    if not takes_dataloader_idx(session.module, step):
        raise ConfigurationError(
            f"{stage} has several data loaders, and {type(session.module).__name__}.{step} cannot be told which one a "
            f"batch is from; define {step}(self, batch, batch_idx, dataloader_idx=0)"
        )


def _gathered(session: Session, portion: Portion, mine: list[Any]) -> list[Any]:
    """The predictions of all ranks, which have read whole batches in turn; else this rank's. Collective."""
    collectives = session.strategy.collectives
    if portion.total is None or collectives.world_size == 1:
        return mine
    missing = object()
    ranks = collectives.gather_objects(mine)
    turns = zip_longest(*ranks, fillvalue=missing)
    whole = [each for turn in turns for each in turn if each is not missing]
    return whole[: portion.total]
