"""Validation, test and prediction, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from torchrelay.trainer.data import Portion
from torchrelay.trainer.session import Session

HOOK_NAMES = {"validate": "validation"}


def evaluate(session: Session) -> list[dict[str, float]]:
    """Evaluate the data of the session's stage; the combined metrics, one dict a data loader."""
    stage = session.job.stage
    evaluate_portion(session, stage, session.require_portion(stage))
    values = session.evaluation_metrics[stage].epoch_values()
    return [{name: float(value) for name, value in values.items()}]


def predict(session: Session) -> list[Any]:
    """This rank's predictions, one entry a batch."""
    return evaluate_portion(session, "predict", session.require_portion("predict"))


def evaluate_portion(
    session: Session, stage: str, portion: Portion, at_most: int | None = None
) -> list[Any]:
    """Run the module over batches without gradients, in evaluation mode; training modes are put back after.

    Args:
        session: the run.
        stage: "validate", "test" or "predict".
        portion: the batches.
        at_most: stop after so many.

    Returns:
        What `predict_step` returned for each batch; empty for the other stages.
    """
    hook = f"on_{HOOK_NAMES.get(stage, stage)}"
    strategy, call = session.strategy, session.hooks.call
    without_gradients = strategy.grad_off if session.options.inference_mode else torch.no_grad
    portion.set_epoch(session.progress.epoch)
    with evaluation_mode(session, hook):
        with session.recording(stage) as metrics, strategy.stage(stage), without_gradients():
            call(f"{hook}_start")
            call(f"{hook}_epoch_start")
            metrics.in_step = True
            results = _batches(session, stage, portion, at_most)
            metrics.in_step = False
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


def _batches(session: Session, stage: str, portion: Portion, at_most: int | None) -> list[Any]:
    prefix = HOOK_NAMES.get(stage, stage)
    name = f"{prefix}_step"
    on_start = session.hooks.get(f"on_{prefix}_batch_start")
    on_end = session.hooks.get(f"on_{prefix}_batch_end")
    strategy, metrics = session.strategy, session.metrics
    move = session.mover()
    keep = stage == "predict"
    results = []
    for i, (batch, _) in enumerate(islice(portion.batches(), at_most)):
        if move is not None:
            batch = move(batch)
        metrics.batch = batch
        if on_start is not None:
            on_start(batch, i)
        outputs = strategy.evaluation_step(name, batch, i)
        if keep:
            results.append(outputs)
        if on_end is not None:
            on_end(outputs, batch, i)
    return results
