"""ModelCheckpoint: keeps the best checkpoints, and the last."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchrelay.callbacks.callback import Checkpointer
from torchrelay.checkpoint import files
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer

_FIELD = re.compile(r"\{([^{}:]+)(:[^{}]*)?\}")


@dataclass(frozen=True)
class Decision:
    """What rank 0 decides for all ranks: the file to write, the one to remove, and the score."""

    save: str = ""
    remove: str = ""
    score: float | None = None


class ModelCheckpoint(Checkpointer):
    """Keeps the best checkpoints by a metric, or the latest, and on request the last.

    Args:
        dirpath: folder; `checkpoints` under the Trainer's `default_root_dir` when None.
        filename: name without suffix; `{epoch}`, `{step}` and metric names in braces are filled in, as
            `{epoch}-{val_loss:.2f}`. Default: `{epoch}-{step}`.
        monitor: the logged metric to judge by; None keeps the latest.
        mode: "min" or "max": which values are better.
        save_top_k: how many to keep; -1 for all, 0 for none.
        save_last: also keep the newest as `last.ckpt`.
        every_n_epochs: epochs between two checkpoints.

    Attributes:
        best_model_path: file of the best checkpoint; "" if there is none.
        best_model_score: its score; None if there is none.
        last_model_path: file of the newest with `save_last`.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int = 1,
        save_last: bool = False,
        every_n_epochs: int = 1,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigurationError(f"ModelCheckpoint(mode={mode!r}): must be 'min' or 'max'")
        if not isinstance(save_top_k, int) or save_top_k < -1:
            raise ConfigurationError(
                f"ModelCheckpoint(save_top_k={save_top_k!r}): must be a whole number from -1"
            )
        if not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise ConfigurationError(
                f"ModelCheckpoint(every_n_epochs={every_n_epochs!r}): must be a whole number from 1"
            )
        if monitor is None and save_top_k not in (-1, 0, 1):
            raise ConfigurationError(
                f"ModelCheckpoint(save_top_k={save_top_k}) needs monitor= to tell which are best"
            )
        self.dirpath = None if dirpath is None else os.fspath(dirpath)
        self.filename = filename or "{epoch}-{step}"
        self.monitor = monitor
        self.mode = mode
        self.save_top_k = save_top_k
        self.save_last = save_last
        self.every_n_epochs = every_n_epochs
        self.best_model_path = ""
        self.best_model_score: float | None = None
        self.last_model_path = ""
        self.kept: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        """Key that tells apart several of this class."""
        return f"ModelCheckpoint{{'monitor': {self.monitor!r}, 'mode': {self.mode!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """Which files are kept, and their scores."""
        return {
            "best_model_path": self.best_model_path,
            "best_model_score": self.best_model_score,
            "last_model_path": self.last_model_path,
            "kept": dict(self.kept),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the files that are still there."""
        self.best_model_path = state_dict["best_model_path"]
        score = state_dict["best_model_score"]
        self.best_model_score = None if score is None else float(score)
        self.last_model_path = state_dict["last_model_path"]
        kept = state_dict.get("kept", {})
        self.kept = {path: score for path, score in kept.items() if files.exists(path)}

    def on_resumable_point(self, trainer: Trainer, pl_module: LightningModule, reason: str) -> None:
        """Write a checkpoint after each due epoch, and where the run stops inside one."""
        closed = reason == "epoch"
        if not closed and reason != "end":
            return
        if closed and trainer.current_epoch % self.every_n_epochs:
            return
        collectives = trainer.strategy.collectives
        decision: Decision = collectives.broadcast(
            self._decide(trainer, closed) if trainer.is_global_zero else None
        )
        self._apply(trainer, decision)

    def _decide(self, trainer: Trainer, closed: bool) -> Decision:
        if self.save_top_k == 0 or (self.monitor is not None and not _is_judged(trainer, closed)):
            return Decision()
        score = self._score(trainer)
        worst = self._worst() if 0 < self.save_top_k <= len(self.kept) else ""
        if (
            worst
            and self.monitor is not None
            and (score is None or not self._better(score, self.kept[worst]))
        ):
            return Decision()
        return Decision(self._path(trainer, closed, worst), worst, score)

    def _apply(self, trainer: Trainer, decision: Decision) -> None:
        if decision.save:
            # the state goes into the file, so it must already name the file
            self.kept.pop(decision.remove, None)
            self.kept[decision.save] = float("nan") if decision.score is None else decision.score
            best = self._best()
            self.best_model_path = best
            self.best_model_score = self.kept[best] if self.monitor is not None else None
            trainer.save_checkpoint(decision.save)
        if self.save_last:
            self.last_model_path = files.join(self._folder(trainer), "last.ckpt")
            trainer.save_checkpoint(self.last_model_path)
        if decision.remove and decision.remove != decision.save:
            trainer.strategy.remove_checkpoint(decision.remove)

    def _score(self, trainer: Trainer) -> float | None:
        if self.monitor is None:
            return None
        found = trainer.callback_metrics
        if self.monitor not in found:
            raise ConfigurationError(
                f"ModelCheckpoint(monitor={self.monitor!r}): no such metric has been logged; logged: "
                f"{', '.join(sorted(found)) or 'nothing'}"
            )
        score = float(found[self.monitor])
        return score if not math.isnan(score) else math.inf if self.mode == "min" else -math.inf

    def _better(self, score: float, than: float) -> bool:
        return score < than if self.mode == "min" else score > than

    def _worst(self) -> str:
        if self.monitor is None:
            return next(iter(self.kept))
        pick = max if self.mode == "min" else min
        return pick(self.kept, key=lambda path: self.kept[path])

    def _best(self) -> str:
        if self.monitor is None:
            return next(reversed(self.kept))
        pick = min if self.mode == "min" else max
        return pick(self.kept, key=lambda path: self.kept[path])

    def _folder(self, trainer: Trainer) -> str:
        return self.dirpath or files.join(trainer.default_root_dir, "checkpoints")

    def _path(self, trainer: Trainer, closed: bool, replaced: str) -> str:
        values: dict[str, Any] = {
            **{name: float(value) for name, value in trainer.callback_metrics.items()},
            "epoch": trainer.current_epoch - closed,
            "step": trainer.global_step,
        }

        def fill(match: re.Match[str]) -> str:
            name, spec = match[1], match[2] or ""
            if name not in values:
                raise ConfigurationError(
                    f"ModelCheckpoint(filename={self.filename!r}): {name!r} is neither epoch, step nor a logged metric"
                )
            try:
                return f"{name.replace('/', '_')}=" + ("{0" + spec + "}").format(values[name])
            except ValueError as error:
                raise ConfigurationError(
                    f"ModelCheckpoint(filename={self.filename!r}): {match[0]} cannot be filled in: {error}"
                ) from error

        stem = files.join(self._folder(trainer), _FIELD.sub(fill, self.filename))
        path, version = f"{stem}.ckpt", 0
        while (path in self.kept or files.exists(path)) and path != replaced:
            version += 1
            path = f"{stem}-v{version}.ckpt"
        return path


def _is_judged(trainer: Trainer, closed: bool) -> bool:
    """Whether the metrics are those of the epoch that was closed, validated if fit validates at all."""
    due = trainer.current_epoch % trainer.options.epochs_to_validation == 0
    return closed and (due or not trainer.enable_validation)
