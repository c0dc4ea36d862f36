"""Checkpoints that Lightning 2.x wrote, in the canonical form.

Lightning numbers the parameters of optimizers, as torch does, which `optimizer_names.from_names` accepts. It has no
random states, so what is random after a resume differs from what Lightning would have drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torchrelay.checkpoint.schema import MANIFEST, SCHEMA_VERSION
from torchrelay.errors import CheckpointError

VERSION = "pytorch-lightning_version"
"""The key under which Lightning writes its version; it stays, for hooks that look for it."""

_PRECISIONS = ("MixedPrecision", "MixedPrecisionPlugin")
"""Names under which Lightning keeps a gradient scale, which is torch's own."""


_KEY = re.compile(r"(ModelCheckpoint|EarlyStopping)\{'monitor': .+, 'mode': '(?:min|max)'")
"""The part of a callback's key that torchrelay's has too; Lightning's ModelCheckpoint goes on with its intervals."""


def is_lightning(checkpoint: Mapping[str, Any]) -> bool:
    """Whether Lightning wrote a checkpoint, and nobody has converted it yet."""
    return VERSION in checkpoint and MANIFEST not in checkpoint


def convert(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Make a checkpoint of Lightning 2.x into one of the canonical form; keys that have no place there stay.

    Raises:
        CheckpointError: it is of Lightning 1.x, or holds no model.
    """
    version = str(checkpoint[VERSION])
    if int(version.partition(".")[0]) < 2:
        raise CheckpointError(
            f"the checkpoint is of Lightning {version}, and those of 2.0 and later can be read; with Lightning "
            "installed, python -m lightning.pytorch.utilities.upgrade_checkpoint FILE makes it one of those"
        )
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise CheckpointError(
            f"the checkpoint of Lightning {version} holds no model: it has no 'state_dict'"
        )
    result = {**checkpoint, MANIFEST: _manifest(version)}
    if "loops" in checkpoint:
        progress = _progress(checkpoint)
        result |= {"epoch": progress["epoch"], "loops": {"fit": progress}}
    if "callbacks" in checkpoint:
        states = checkpoint["callbacks"].items()
        result["callbacks"] = dict(_callback(key, state) for key, state in states)
    for name in _PRECISIONS:
        if name in result:
            result["precision"] = result.pop(name)
    return result


def _manifest(version: str) -> dict[str, Any]:
    return {"schema": SCHEMA_VERSION, "torchrelay": None, "lightning": version}


def _progress(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's counters as those of `trainer.progress.Progress`.

    "processed" counts what the weights have seen: "completed" is one behind in a file that was written by
    `on_train_batch_end` or `on_train_epoch_end`, as ModelCheckpoint does. After the last batch of an epoch, its
    schedulers have been stepped and its validation has run or is not made up for by Lightning either, so the epoch
    counts as completed.
    """
    fit = checkpoint["loops"]["fit_loop"]
    epoch = fit["epoch_progress"]["current"]
    batches = fit["epoch_loop.batch_progress"]
    under_way = epoch["started"] > epoch["processed"]
    closed = under_way and batches["is_last_batch"]
    return {
        "epoch": epoch["processed"] + closed,
        "batch": batches["current"]["processed"] if under_way and not closed else 0,
        "global_step": checkpoint["global_step"],
        "batches": batches["total"]["processed"],
        "at_end": False,
    }


def _callback(key: str, state: Any) -> tuple[str, Any]:
    """A callback's key and state as those of torchrelay's callback of that name; unchanged if there is none."""
    match = _KEY.match(key)
    if match is None:
        return key, state
    return f"{match[0]}}}", _CALLBACKS[match[1]](state)


def _model_checkpoint(state: Mapping[str, Any]) -> dict[str, Any]:
    best = state.get("best_model_score")
    path = state.get("best_model_path", "")
    kept = {path: _number(score) for path, score in (state.get("best_k_models") or {}).items()}
    if not kept and path:  # without a metric to judge by, Lightning remembers the newest alone
        kept = {path: math.nan}
    return {
        "best_model_path": path,
        "best_model_score": None if best is None else _number(best),
        "last_model_path": state.get("last_model_path", ""),
        "kept": kept,
    }


def _early_stopping(state: Mapping[str, Any]) -> dict[str, Any]:
    # Lightning notes the index of the epoch in which it stopped, torchrelay how many were completed; 0 is "not".
    stopped = state["stopped_epoch"]
    return {
        "wait_count": state["wait_count"],
        "stopped_epoch": stopped + 1 if stopped else 0,
        "best_score": _number(state["best_score"]),
        "patience": state["patience"],
    }


_CALLBACKS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "ModelCheckpoint": _model_checkpoint,
    "EarlyStopping": _early_stopping,
}


def _number(value: Any) -> float:
    """A number, also where Lightning has a 0-dim tensor."""
    return float(value)
