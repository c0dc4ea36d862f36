"""EarlyStopping: stops a run when a metric no longer improves."""

from __future__ import annotations

import enum
import math
import sys
from typing import TYPE_CHECKING, Any

from torchrelay.arguments import answering
from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class EarlyStoppingReason(enum.Enum):
    """Why a run was stopped."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


Verdict = tuple[EarlyStoppingReason, str]


class EarlyStopping(Callback):
    """Stops a run when a metric has not improved for some validations, or epochs where fit does not validate.

    Args:
        monitor: the logged metric.
        min_delta: an improvement counts if it is larger than this.
        patience: validations without improvement before stopping.
        verbose: say on stderr when the metric improves, and why the run stops.
        mode: "min" or "max": which values are better.
        strict: whether a metric that was never logged is an error.
        check_finite: stop when the metric is NaN or infinite.
        stopping_threshold: stop once the metric is better than this.
        divergence_threshold: stop once it is worse than this.
        check_on_train_epoch_end: judge at the end of each epoch of training rather than after validation; None does
            so where fit does not validate.
        log_rank_zero_only: say so on global rank 0 alone, rather than on each rank.

    Attributes:
        stopped_epoch: epochs completed when it stopped the run; 0 if it has not.
        stopping_reason: why.
        stopping_reason_message: the same in words; None if it has not.
        best_score: the best value so far.
        wait_count: validations since then.
    """

    @answering
    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigurationError(f"EarlyStopping(mode={mode!r}): must be 'min' or 'max'")
        if not isinstance(patience, int) or isinstance(patience, bool) or patience < 0:
            raise ConfigurationError(
                f"EarlyStopping(patience={patience!r}): must be a whole number from 0"
            )
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.check_on_train_epoch_end = check_on_train_epoch_end
        self.log_rank_zero_only = log_rank_zero_only
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None
        self.stopped_epoch = 0
        self.wait_count = 0
        self.best_score = math.inf if mode == "min" else -math.inf

    @property
    def state_key(self) -> str:
        """Key that tells apart several of this class."""
        return f"EarlyStopping{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how long ago it was."""
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "patience": self.patience,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = float(state_dict["best_score"])
        self.patience = state_dict["patience"]
        # checkpoints of earlier versions do not say why
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", 0))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the metric; ranks stop together."""
        if self._judges(trainer) and not self.check_on_train_epoch_end:
            self._stop_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the metric where fit does not validate, or if that was asked for."""
        by_epoch = self.check_on_train_epoch_end
        if by_epoch is None:
            by_epoch = not trainer.enable_validation
        if by_epoch and self._judges(trainer):
            self._stop_if_due(trainer)

    def _judges(self, trainer: Trainer) -> bool:
        """Whether a fit is under way, in earnest."""
        fitting = trainer.session is not None and trainer.session.job.stage == "fit"
        return fitting and not trainer.sanity_checking and not trainer.options.fast_dev_run

    def _stop_if_due(self, trainer: Trainer) -> None:
        score = self._score(trainer)
        if score is None:
            return
        before = self.best_score
        verdict = self._passed(score) or self._waited(score)
        if verdict is not None:
            self.stopping_reason, self.stopping_reason_message = verdict
            self.stopped_epoch = trainer.current_epoch + 1
            trainer.should_stop = True
            self._say(trainer, f"EarlyStopping ends the run: {self.stopping_reason_message}")
        elif self.best_score != before:
            self._say(trainer, f"{self.monitor} has improved from {before:.5g} to {score:.5g}")

    def _say(self, trainer: Trainer, message: str) -> None:
        if not self.verbose or (self.log_rank_zero_only and not trainer.is_global_zero):
            return
        rank = f"rank {trainer.global_rank}: " if trainer.world_size > 1 else ""
        print(f"{rank}{message}", file=sys.stderr)

    def _score(self, trainer: Trainer) -> float | None:
        """The metric; None if it has not been logged and need not be."""
        found = trainer.callback_metrics
        # ranks judge rank 0's value, because a rank that stopped alone would leave the others waiting
        watched = trainer.strategy.collectives.broadcast(found.get(self.monitor))
        if watched is None and self.strict:
            raise ConfigurationError(
                f"EarlyStopping(monitor={self.monitor!r}): no such metric has been logged; logged: "
                f"{', '.join(sorted(found)) or 'nothing'}"
            )
        return None if watched is None else float(watched)

    def _passed(self, score: float) -> Verdict | None:
        """Why to stop at once; None for no reason."""
        named = f"{self.monitor}={score:.5g}"
        if self.check_finite and not math.isfinite(score):
            return EarlyStoppingReason.NON_FINITE_METRIC, f"{named} is not finite"
        best, worst = self.stopping_threshold, self.divergence_threshold
        if best is not None and self._better(score, best):
            message = f"{named} is better than stopping_threshold={best}"
            return EarlyStoppingReason.STOPPING_THRESHOLD, message
        if worst is not None and self._better(worst, score):
            message = f"{named} is worse than divergence_threshold={worst}"
            return EarlyStoppingReason.DIVERGENCE_THRESHOLD, message
        return None

    def _waited(self, score: float) -> Verdict | None:
        gain = self.best_score - score if self.mode == "min" else score - self.best_score
        if gain > self.min_delta:
            self.best_score, self.wait_count = score, 0
        else:
            self.wait_count += 1
        if not self.wait_count or self.wait_count < self.patience:
            return None
        message = (
            f"{self.monitor} has not improved on {self.best_score:.5g} {self.wait_count} times"
        )
        return EarlyStoppingReason.PATIENCE_EXHAUSTED, message

    def _better(self, score: float, than: float) -> bool:
        return score < than if self.mode == "min" else score > than
