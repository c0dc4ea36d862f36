"""The gradient scale of fp16 training, which DeepSpeed counts itself, in the form that torch's `GradScaler` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DYNAMIC = ("dynamic", "dynamic_loss_scale")


def loss_scale_state(engine: Any) -> dict[str, Any]:
    """The scale and its history, with keys of torch's `GradScaler` and two of DeepSpeed's; empty without fp16.

    The number of updates that were skipped goes with it.
    """
    scaler = _scaler(engine)
    if scaler is None:
        return {}
    factor = getattr(scaler, "scale_factor", None) or 2.0
    window = getattr(scaler, "scale_window", None) or 1
    calm = _calm(scaler)
    state = {
        "scale": float(scaler.cur_scale),
        "growth_factor": float(factor),
        "backoff_factor": 1.0 / float(factor),
        "growth_interval": int(window),
        "_growth_tracker": calm % int(window),
        "calm_steps": calm,
        "skipped_steps": int(engine.skipped_steps),
    }
    if hasattr(scaler, "cur_hysteresis"):
        state["hysteresis"] = int(scaler.cur_hysteresis)
    return state


def load_loss_scale(engine: Any, state: Mapping[str, Any]) -> None:
    """Take up the scale and its history; how it grows stays what the configuration says, as does a fixed scale.

    A state of a run without a scale, and an engine that has none, change nothing.
    """
    scaler = _scaler(engine)
    if scaler is None or not state:
        return
    engine.skipped_steps = int(state.get("skipped_steps", engine.skipped_steps))
    if not any(getattr(scaler, name, False) for name in _DYNAMIC):
        return
    scaler.cur_scale = float(state["scale"])
    # Only the difference of the two counts.
    scaler.cur_iter = int(state.get("calm_steps", state.get("_growth_tracker", 0)))
    scaler.last_overflow_iter = -1
    if hasattr(scaler, "cur_hysteresis"):
        scaler.cur_hysteresis = int(state.get("hysteresis", scaler.cur_hysteresis))


def _scaler(engine: Any) -> Any:
    """What counts the scale; stage 0 has another than stages 1 to 3."""
    if not engine.fp16_enabled() or engine.optimizer is None:
        return None
    found = getattr(engine.optimizer, "loss_scaler", None)
    return found or getattr(engine.optimizer, "loss_scale_config", None)


def _calm(scaler: Any) -> int:
    """Updates since the last overflow."""
    last = getattr(scaler, "last_overflow_iter", None)
    return int(scaler.cur_iter) - int(last) - 1 if last is not None else 0
