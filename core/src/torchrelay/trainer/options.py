"""The Trainer's arguments that no strategy needs, checked and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay.strategies.plan import Clip, Plan
from torchrelay.trainer.data import Limit, check_limit


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
    fast_dev_run: int | bool = False
    check_val_every_n_epoch: int = 1
    num_sanity_val_steps: int = 2
    log_every_n_steps: int = 50
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    use_distributed_sampler: bool = True
    sync_batchnorm: bool = False
    inference_mode: bool = True

    def __post_init__(self) -> None:
        for name in ("train", "val", "test", "predict"):
            check_limit(getattr(self, f"limit_{name}_batches"), f"limit_{name}_batches")
        _at_least(self.accumulate_grad_batches, 1, "accumulate_grad_batches")
        _at_least(self.check_val_every_n_epoch, 1, "check_val_every_n_epoch")
        _at_least(self.log_every_n_steps, 1, "log_every_n_steps")
        _at_least(self.num_sanity_val_steps, -1, "num_sanity_val_steps")
        _at_least(self.max_steps, -1, "max_steps")
        for name, least in (("max_epochs", -1), ("min_epochs", 0), ("min_steps", 0)):
            if getattr(self, name) is not None:
                _at_least(getattr(self, name), least, name)
        if not isinstance(self.fast_dev_run, bool):
            _at_least(self.fast_dev_run, 0, "fast_dev_run")
        self._check_clipping()

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
        return 0 if self.fast_dev_run else self.num_sanity_val_steps

    @property
    def epochs_to_validation(self) -> int:
        """Epochs from one validation to the next."""
        return 1 if self.fast_dev_run else self.check_val_every_n_epoch

    def limit(self, stage: str) -> Limit | None:
        """How much of a stage's data to read."""
        if self.fast_dev_run:
            return int(self.fast_dev_run)
        name = {"validate": "val"}.get(stage, stage)
        limit: Limit | None = getattr(self, f"limit_{name}_batches")
        return limit


def _at_least(value: Any, least: int, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}={value!r} must be a whole number from {least}")


def from_arguments(arguments: Mapping[str, Any]) -> Options:
    """The options among a Trainer's arguments."""
    return Options(**{name: arguments[name] for name in Options.__dataclass_fields__})
