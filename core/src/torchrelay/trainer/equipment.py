"""The callbacks and loggers of a Trainer: the user's, and those that its arguments add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchrelay import callbacks as own
from torchrelay import profilers
from torchrelay.callbacks.callback import Callback
from torchrelay.callbacks.model_checkpoint import ModelCheckpoint
from torchrelay.callbacks.model_summary import ModelSummary
from torchrelay.callbacks.progress_bar import ProgressBar
from torchrelay.callbacks.timer import Timer
from torchrelay.errors import ConfigurationError
from torchrelay.loggers.default import default_logger
from torchrelay.trainer.hooks import callback_base, is_kind

SWITCHES = {
    "enable_progress_bar": ("ProgressBar",),
    "enable_model_summary": ("ModelSummary",),
    "enable_checkpointing": ("Checkpointer", "Checkpoint"),
}
"""The kind of callback that an argument switches on, as it is unless it is given, or off, in either library."""

REFUSED = ("enable_progress_bar", "enable_checkpointing")
"""The switches that contradict a callback of their kind; a summary that is given is shown in any case."""

DEFAULTS: dict[str, type[Callback]] = {
    "enable_progress_bar": ProgressBar,
    "enable_model_summary": ModelSummary,
    "enable_checkpointing": ModelCheckpoint,
}

PRIVATE = "reads private parts of Lightning's Trainer"
OWN_CLASSES = "works with Lightning's own classes alone"
UNFIT = {
    "BasePredictionWriter": PRIVATE,
    "BatchSizeFinder": PRIVATE,
    "DeviceStatsMonitor": PRIVATE,
    "GradientAccumulationScheduler": OWN_CLASSES,
    "LearningRateFinder": PRIVATE,
    "LearningRateMonitor": PRIVATE,
    "OnExceptionCheckpoint": "removes its file in teardown, which follows an exception here",
    "StochasticWeightAveraging": PRIVATE,
    "ThroughputMonitor": OWN_CLASSES,
    "WeightAveraging": OWN_CLASSES,
}
"""Lightning's callbacks that cannot work here, and why."""


def choose_callbacks(arguments: Mapping[str, Any]) -> list[Any]:
    """The callbacks of a run: those that were given, and those that arguments add; checkpointers come last.

    Raises:
        ConfigurationError: one is no callback, or is of a kind that an argument switches off.
    """
    callbacks = _listed(arguments["callbacks"])
    for callback in callbacks:
        _check_callback(callback)
    if arguments["max_time"] is not None:
        callbacks.append(Timer(arguments["max_time"]))
    for name, kinds in SWITCHES.items():
        given = [callback for callback in callbacks if is_kind(callback, *kinds)]
        if arguments[name] is False and given and name in REFUSED:
            raise ConfigurationError(
                f"{name}=False and callbacks with a {type(given[0]).__name__} contradict each other; leave one out"
            )
        if not given and _is_on(name, arguments):
            callbacks.append(DEFAULTS[name]())
    return in_order(callbacks)


def with_those_of(module: Any, callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks of a run with those of the module's `configure_callbacks`, each in the place of any of its class.

    Raises:
        ConfigurationError: the module gives something else.
    """
    added = _listed(module.configure_callbacks())
    for callback in added:
        _check_callback(callback)
    kinds = {type(callback) for callback in added}
    return in_order([*(each for each in callbacks if type(each) not in kinds), *added])


def in_order(callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks as they are called: what writes checkpoints comes last, so that it sees what others did."""
    return sorted(callbacks, key=lambda each: is_kind(each, *SWITCHES["enable_checkpointing"]))


def choose_loggers(arguments: Mapping[str, Any], root: str) -> list[Any]:
    """The loggers of a run; one of TensorBoard's or of CSV files unless any are given or none is wanted.

    Raises:
        ConfigurationError: one is no logger.
    """
    given = arguments["logger"]
    if arguments["fast_dev_run"] or arguments["barebones"]:
        return []
    if given is None or given is True:
        return [default_logger(root)]
    loggers = _listed(given)
    for logger in loggers:
        if isinstance(logger, type) or not hasattr(logger, "log_metrics"):
            raise ConfigurationError(
                f"logger={logger!r} has no log_metrics(metrics, step); give an object that has, such as "
                "torchrelay.loggers.CSVLogger(save_dir)"
            )
    return loggers


def choose_profiler(arguments: Mapping[str, Any]) -> Any:
    """The profiler of a run, or None."""
    return profilers.make(arguments["profiler"])


def _is_on(name: str, arguments: Mapping[str, Any]) -> bool:
    if arguments["barebones"] or (name == "enable_checkpointing" and arguments["fast_dev_run"]):
        return False
    return arguments[name] is not False


def _check_callback(callback: Any) -> None:
    if callback_base(callback) is object:
        raise ConfigurationError(
            f"callbacks has {callback!r}, which is no torchrelay.Callback; give an instance of one, or of Lightning's"
        )
    for name, reason in UNFIT.items():
        if is_kind(callback, name) and not isinstance(callback, Callback):
            instead = hasattr(own, name)
            raise ConfigurationError(
                f"callbacks has {type(callback).__name__}, and Lightning's {name} {reason}; "
                + (
                    "take that of torchrelay.callbacks, with the same arguments"
                    if instead
                    else "leave it out"
                )
            )


def _listed(given: Any) -> list[Any]:
    if given is None or given is False:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]
