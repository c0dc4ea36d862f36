"""The Trainer's arguments that no strategy needs, checked and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay.strategies.plan import Clip, Plan
from torchrelay.trainer import bounds, settings
from torchrelay.trainer.bounds import Limit
from torchrelay.trainer.stages import STAGES

BAREBONES_OFF = (
    "callbacks",
    "detect_anomaly",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "fast_dev_run",
    "hang_timeout",
    "logger",
    "log_every_n_steps",
    "num_sanity_val_steps",
    "profiler",
)
"""What a barebones run does without."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long a run goes on, how much data it reads, and how gradients become updates.

    The fields carry the names and the meaning of the Trainer's arguments.
    """

    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    limit_train_batches: Limit | None = None
    limit_val_batches: Limit | None = None
    limit_test_batches: Limit | None = None
    limit_predict_batches: Limit | None = None
    overfit_batches: Limit = 0.0
    fast_dev_run: int | bool = False
    val_check_interval: Limit | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    reload_dataloaders_every_n_epochs: int = 0
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    use_distributed_sampler: bool = True
    sync_batchnorm: bool = False
    inference_mode: bool = True
    deterministic: bool | str | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    barebones: bool = False
    enable_autolog_hparams: bool = True

    def __post_init__(self) -> None:
        for stage in STAGES.values():
            bounds.check_limit(getattr(self, stage.limit), stage.limit)
        bounds.check_limit(self.overfit_batches, "overfit_batches")
        for name, least in LEAST.items():
            if getattr(self, name) is not None or name in NEVER_NONE:
                bounds.check_least(getattr(self, name), least, name)
        for name in FLAGS:
            bounds.check_flag(getattr(self, name), name)
        if not isinstance(self.fast_dev_run, bool):
            bounds.check_least(self.fast_dev_run, 0, "fast_dev_run")
        bounds.check_validation(self.val_check_interval, self.check_val_every_n_epoch)
        self._check_overfitting()
        self._check_clipping()
        settings.check(self.deterministic, self.benchmark, self.detect_anomaly)

    def _check_overfitting(self) -> None:
        for name in ("limit_train_batches", "limit_val_batches"):
            if self.overfit_batches and getattr(self, name) is not None:
                raise ConfigurationError(
                    f"overfit_batches={self.overfit_batches} and {name}={getattr(self, name)} both say how much of the "
                    "data to read; leave one of them out"
                )

    def _check_clipping(self) -> None:
        if self.gradient_clip_val is None:
            if self.gradient_clip_algorithm is not None:
                raise ConfigurationError(
                    f"gradient_clip_algorithm={self.gradient_clip_algorithm!r} clips nothing without "
                    "gradient_clip_val; give the limit too"
                )
            return
        number = isinstance(self.gradient_clip_val, (int, float))
        if (
            not number
            or isinstance(self.gradient_clip_val, bool)
            or not self.gradient_clip_val >= 0
        ):
            raise ConfigurationError(
                f"gradient_clip_val={self.gradient_clip_val!r} must be a number from 0, or None"
            )
        if self.gradient_clip_algorithm not in (None, "norm", "value"):
            raise ConfigurationError(
                f"gradient_clip_algorithm={self.gradient_clip_algorithm!r} must be 'norm' or 'value'"
            )

    @property
    def plan(self) -> Plan:
        """How gradients become updates, as asked for."""
        clip = None
        if self.gradient_clip_val:
            algorithm = self.gradient_clip_algorithm or "norm"
            clip = Clip(float(self.gradient_clip_val), algorithm)  # type: ignore[arg-type]
        n = self.accumulate_grad_batches
        return Plan(accumulate=n, loss_divisor=n, clip=clip)

    @property
    def last_epoch(self) -> float:
        """Number of epochs after which to stop; infinite for -1, 1000 when neither epochs nor steps are given."""
        if self.fast_dev_run:
            return 1
        if self.max_epochs is None:
            return float("inf") if self.max_steps >= 0 else 1000
        return float("inf") if self.max_epochs == -1 else self.max_epochs

    @property
    def last_step(self) -> float:
        """Number of weight updates after which to stop."""
        return float("inf") if self.max_steps == -1 else self.max_steps

    @property
    def sanity_steps(self) -> int:
        """Number of validation batches to try before training; -1 for all."""
        if self.fast_dev_run or self.barebones:
            return 0
        return 2 if self.num_sanity_val_steps is None else self.num_sanity_val_steps

    @property
    def steps_to_log(self) -> float:
        """Weight updates between two rows of a logger; infinite for never."""
        if self.log_every_n_steps is None:
            return float("inf") if self.barebones else 50
        return self.log_every_n_steps or float("inf")

    @property
    def epochs_to_validation(self) -> int | None:
        """Epochs from one validation to the next; None if batches are counted through all epochs."""
        return 1 if self.fast_dev_run else self.check_val_every_n_epoch

    @property
    def validation_interval(self) -> Limit:
        """Batches from one validation to the next, or that fraction of an epoch's."""
        if self.fast_dev_run or self.val_check_interval is None:
            return 1.0
        return self.val_check_interval

    def limit(self, stage: str) -> Limit | None:
        """How much of a stage's data to read."""
        if self.fast_dev_run:
            return int(self.fast_dev_run)
        if self.overfit_batches and stage in ("train", "validate"):
            return self.overfit_batches
        limit: Limit | None = getattr(self, STAGES[stage].limit)
        return limit


LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "reload_dataloaders_every_n_epochs": 0,
}
"""The smallest value of each argument that is a whole number."""


NEVER_NONE = ("accumulate_grad_batches", "max_steps", "reload_dataloaders_every_n_epochs")
FLAGS = (
    "barebones",
    "enable_autolog_hparams",
    "inference_mode",
    "sync_batchnorm",
    "use_distributed_sampler",
)
SWITCHES = ("enable_checkpointing", "enable_model_summary", "enable_progress_bar")


def from_arguments(arguments: Mapping[str, Any]) -> Options:
    """The options among a Trainer's arguments.

    Raises:
        ConfigurationError: one is out of its bounds, or contradicts another.
    """
    for name in SWITCHES:
        bounds.check_flag(arguments[name], name, optional=True)
    if arguments["barebones"]:
        asked = [f"{name}={arguments[name]!r}" for name in BAREBONES_OFF if arguments[name]]
        if asked:
            raise ConfigurationError(
                f"barebones=True does without {', '.join(asked)}; leave out one or the other"
            )
    return Options(**{name: arguments[name] for name in Options.__dataclass_fields__})
