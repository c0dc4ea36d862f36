"""EarlyStopping: stops a run when a metric no longer improves."""

from __future__ import annotations

import math
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
        mode: "min" or "max": which values are better.
        strict: whether a metric that was never logged is an error.
        check_finite: stop when the metric is NaN or infinite.

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
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigurationError(f"EarlyStopping(mode={mode!r}): must be 'min' or 'max'")
        self.monitor = monitor
        self.min_delta = abs(min_delta)
        self.patience = patience
        self.mode = mode
        self.strict = strict
        self.check_finite = check_finite
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
        if not trainer.sanity_checking:
            self._stop_if_due(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the metric where fit does not validate."""
        if not trainer.enable_validation:
            self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        if self._judge(trainer):
            self.stopped_epoch = trainer.current_epoch + 1
            trainer.should_stop = True

    def _judge(self, trainer: Trainer) -> bool:
        found = trainer.callback_metrics
        # ranks judge rank 0's value, because a rank that stopped alone would leave the others waiting
        watched = trainer.strategy.collectives.broadcast(found.get(self.monitor))
        if watched is None:
            if self.strict:
                raise ConfigurationError(
                    f"EarlyStopping(monitor={self.monitor!r}): no such metric has been logged; logged: "
                    f"{', '.join(sorted(found)) or 'nothing'}"
                )
            return False
        score = float(watched)
        if self.check_finite and not math.isfinite(score):
            return True
        gain = self.best_score - score if self.mode == "min" else score - self.best_score
        if gain > self.min_delta:
            self.best_score, self.wait_count = score, 0
        else:
            self.wait_count += 1
        return self.wait_count >= self.patience
