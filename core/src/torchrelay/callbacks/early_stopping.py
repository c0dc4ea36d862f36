"""EarlyStopping: stops a run when a metric no longer improves."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from torchrelay.callbacks.callback import Callback
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


class EarlyStopping(Callback):
    """Stops a run when a metric has not improved for some validations, or epochs where fit does not validate.

    Args:
        monitor: the logged metric.
        min_delta: an improvement counts if it is larger than this.
        patience: validations without improvement before stopping.
        verbose: say on stderr why it stops.
        mode: "min" or "max": which values are better.
        strict: whether a metric that was never logged is an error.
        check_finite: stop when the metric is NaN or infinite.
        stopping_threshold: stop once the metric is better than this.
        divergence_threshold: stop once it is worse than this.
        check_on_train_epoch_end: judge at the end of each epoch of training rather than after validation; None does
            so where fit does not validate.

    Attributes:
        stopped_epoch: epochs completed when it stopped the run; 0 if it has not.
        best_score: the best value so far.
        wait_count: validations since then.
    """

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
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigurationError(f"EarlyStopping(mode={mode!r}): must be 'min' or 'max'")
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
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = float(state_dict["best_score"])
        self.patience = state_dict["patience"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the metric; ranks stop together."""
        if not trainer.sanity_checking and not self.check_on_train_epoch_end:
            self._stop_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the metric where fit does not validate, or if that was asked for."""
        if self.check_on_train_epoch_end or (
            self.check_on_train_epoch_end is None and not trainer.enable_validation
        ):
            self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        reason = self._judge(trainer)
        if reason:
            self.stopped_epoch = trainer.current_epoch + 1
            trainer.should_stop = True
            if self.verbose and trainer.is_global_zero:
                print(f"EarlyStopping ends the run: {reason}", file=sys.stderr)

    def _judge(self, trainer: Trainer) -> str:
        """Why to stop; "" for going on."""
        found = trainer.callback_metrics
        # ranks judge rank 0's value, because a rank that stopped alone would leave the others waiting
        watched = trainer.strategy.collectives.broadcast(found.get(self.monitor))
        if watched is None:
            if self.strict:
                raise ConfigurationError(
                    f"EarlyStopping(monitor={self.monitor!r}): no such metric has been logged; logged: "
                    f"{', '.join(sorted(found)) or 'nothing'}"
                )
            return ""
        score = float(watched)
        return self._passed(score) or self._waited(score)

    def _passed(self, score: float) -> str:
        """Why to stop at once; "" for no reason."""
        named = f"{self.monitor}={score:.5g}"
        if self.check_finite and not math.isfinite(score):
            return f"{named} is not finite"
        best, worst = self.stopping_threshold, self.divergence_threshold
        if best is not None and self._better(score, best):
            return f"{named} is better than stopping_threshold={best}"
        if worst is not None and self._better(worst, score):
            return f"{named} is worse than divergence_threshold={worst}"
        return ""

    def _waited(self, score: float) -> str:
        gain = self.best_score - score if self.mode == "min" else score - self.best_score
        if gain > self.min_delta:
            self.best_score, self.wait_count = score, 0
        else:
            self.wait_count += 1
        if self.wait_count < self.patience:
            return ""
        return f"{self.monitor} has not improved on {self.best_score:.5g} {self.wait_count} times"

    def _better(self, score: float, than: float) -> bool:
        return score < than if self.mode == "min" else score > than
