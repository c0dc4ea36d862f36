"""ModelCheckpoint: keeps the best checkpoints, and the last."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from torchrelay.arguments import answering
from torchrelay.callbacks import triggers
from torchrelay.callbacks.callback import Checkpointer
from torchrelay.callbacks.file_names import fill, first_free
from torchrelay.callbacks.on_exception_checkpoint import may_save_alone
from torchrelay.callbacks.top_k import TopK
from torchrelay.checkpoint import files
from torchrelay.errors import ConfigurationError
from torchrelay.loggers.logger import tell

if TYPE_CHECKING:
    from torchrelay.module import LightningModule
    from torchrelay.trainer.trainer import Trainer


@dataclass(frozen=True)
class Decision:
    """What rank 0 decides for all ranks: the file to write, the one to remove, the score, and the last file."""

    save: str = ""
    remove: str = ""
    score: float | None = None
    last: str = ""


class ModelCheckpoint(Checkpointer):
    """Keeps the best checkpoints by a metric, or the latest, and on request the last.

    At most one of `every_n_train_steps`, `train_time_interval` and `every_n_epochs` says when; every epoch if none
    does. A metric that only validation logs is judged from the first validation on.

    Args:
        dirpath: folder; `checkpoints` in the folder of the logger's run when None, or, without a logger, under the
            Trainer's `default_root_dir`.
        filename: name without suffix; `{epoch}`, `{step}` and metric names in braces are filled in, as
            `{epoch}-{val_loss:.2f}`. Default: `{epoch}-{step}`.
        monitor: the logged metric to judge by; None keeps the latest.
        verbose: say on stderr what is kept.
        save_last: also keep the newest as `last.ckpt`; "link" makes that a link to the newest file that is kept.
        save_top_k: how many to keep; -1 for all, 0 for none.
        save_on_exception: also save when an exception ends the training of a run of one process, beside those that
            are kept.
        save_weights_only: leave out what only training on needs.
        mode: "min" or "max": which values are better.
        auto_insert_metric_name: write `name=` before each value in file names.
        every_n_train_steps: weight updates between two checkpoints.
        train_time_interval: time between two checkpoints.
        every_n_epochs: epochs between two checkpoints.
        save_on_train_epoch_end: True judges at the end of each epoch, False after validations alone; None after
            both, and by a metric only where validation has refreshed it.
        enable_version_counter: add `-v1`, `-v2`, ... to a name that another run's file has, rather than overwrite it.

    Attributes:
        best_model_path: file of the best checkpoint; "" if there is none.
        best_model_score: its score; None if there is none.
        last_model_path: file of the newest with `save_last`.
        current_score: the score judged last; None if there is none.
    """

    CHECKPOINT_NAME_LAST: ClassVar[str] = "last"
    FILE_EXTENSION: ClassVar[str] = ".ckpt"

    @answering
    def __init__(  # noqa: PLR0913 - Lightning's arguments, all of them
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | str | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
    ) -> None:
        _check(monitor, mode, save_top_k, save_last)
        self.dirpath = None if dirpath is None else os.fspath(dirpath)
        self.filename = filename or "{epoch}-{step}"
        self.monitor = monitor
        self.verbose = verbose
        self.mode = mode
        self.save_top_k = save_top_k
        self.save_last = save_last
        self.save_on_exception = save_on_exception
        self.save_weights_only = save_weights_only
        self.auto_insert_metric_name = auto_insert_metric_name
        self.save_on_train_epoch_end = save_on_train_epoch_end
        self.enable_version_counter = enable_version_counter
        self.trigger = triggers.choose(every_n_train_steps, train_time_interval, every_n_epochs)
        self.top_k = TopK(save_top_k, mode, monitor is not None)
        self.best_model_path = ""
        self.best_model_score: float | None = None
        self.last_model_path = ""
        self.current_score: float | None = None
        self._validated = self._validated_since = False
        self._training = False
        self._saved_at = -1

    # --- its state --------------------------------------------------------------------------------------

    @property
    def kept(self) -> dict[str, float]:
        """The scores of the files that are kept, the oldest first; NaN without a metric to judge by."""
        return self.top_k.kept

    @property
    def best_k_models(self) -> dict[str, float]:
        """The same, under Lightning's name."""
        return self.top_k.kept

    @property
    def state_key(self) -> str:
        """Key that tells apart several of this class."""
        facts = [f"'monitor': {self.monitor!r}", f"'mode': {self.top_k.mode!r}", self.trigger.key]
        return f"ModelCheckpoint{{{', '.join(fact for fact in facts if fact)}}}"

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
        self.top_k.kept = {path: score for path, score in kept.items() if files.exists(path)}

    # --- when -------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count what the next checkpoint waits for."""
        self._training, self._saved_at = True, -1
        self.trigger.start(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the metrics of validation are new."""
        if not trainer.sanity_checking:
            self._validated = self._validated_since = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that nothing is left to be saved after an exception."""
        self._training = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save the run with `save_on_exception`, unless its last update is saved already."""
        training, self._training = self._training, False
        if not (self.save_on_exception and training) or self._saved_at == trainer.global_step:
            return
        if trainer.sanity_checking or not may_save_alone(trainer, exception, type(self).__name__):
            return
        values = _values(trainer, "step")
        path = self._path(trainer, values, "")
        trainer.save_checkpoint(path, self.save_weights_only)
        print(f"checkpoint after {type(exception).__name__}: {path}", file=sys.stderr)
        if self.save_last and self.save_last != "link":
            self._apply(trainer, Decision(last=self._last_path(trainer, values)))

    def on_resumable_point(self, trainer: Trainer, pl_module: LightningModule, reason: str) -> None:
        """Write a checkpoint if one is due."""
        if not self._is_due(trainer, reason):
            return
        collectives = trainer.strategy.collectives
        decision: Decision = collectives.broadcast(
            self._decide(trainer, reason) if trainer.is_global_zero else None
        )
        self._validated_since = False
        self._apply(trainer, decision)

    def _is_due(self, trainer: Trainer, reason: str) -> bool:
        if not self.trigger.due(trainer, reason):
            return False
        if reason == "validation":
            return self.save_on_train_epoch_end is not True
        if reason == "epoch" and self.save_on_train_epoch_end is False:
            return self._validated_since or not trainer.enable_validation
        return True

    def _is_judged(self, trainer: Trainer, reason: str) -> bool:
        """Whether the metric is worth a look: new since the last time, as far as validation has to renew it."""
        if self.monitor is None:
            return True
        if reason == "step":
            logged = self.monitor in trainer.callback_metrics
            return logged or self._validated or not trainer.enable_validation
        if reason == "epoch":
            at_once = self.save_on_train_epoch_end is True or not trainer.enable_validation
            return at_once or self._validated_since
        return reason == "validation"

    # --- what, on rank 0 --------------------------------------------------------------------------------

    def _decide(self, trainer: Trainer, reason: str) -> Decision:
        values = _values(trainer, reason)
        last = self._last_path(trainer, values) if self.save_last else ""
        if self.top_k.number == 0 or not self._is_judged(trainer, reason):
            return Decision(last=last)
        score = self._score(trainer)
        replaced = self.top_k.replaced_by(score)
        if replaced is None:
            return Decision(score=score, last=last)
        return Decision(self._path(trainer, values, replaced), replaced, score, last)

    def _score(self, trainer: Trainer) -> float | None:
        if self.monitor is None:
            return None
        found = trainer.callback_metrics
        if self.monitor not in found:
            raise ConfigurationError(
                f"ModelCheckpoint(monitor={self.monitor!r}): no such metric has been logged; logged: "
                f"{', '.join(sorted(found)) or 'nothing'}"
            )
        return self.top_k.rank(float(found[self.monitor]))

    def _folder(self, trainer: Trainer) -> str:
        return self.dirpath or files.join(run_folder(trainer), "checkpoints")

    def _stem(self, trainer: Trainer, values: dict[str, Any], template: str) -> str:
        name = fill(template, values, with_names=self.auto_insert_metric_name)
        return files.join(self._folder(trainer), name)

    def _path(self, trainer: Trainer, values: dict[str, Any], replaced: str) -> str:
        def taken(path: str) -> bool:
            others = self.enable_version_counter and files.exists(path)
            return path != replaced and (path in self.kept or others)

        return first_free(self._stem(trainer, values, self.filename), self.FILE_EXTENSION, taken)

    def _last_path(self, trainer: Trainer, values: dict[str, Any]) -> str:
        def taken(path: str) -> bool:
            others = self.enable_version_counter and files.exists(path)
            return path != self.last_model_path and others

        stem = self._stem(trainer, values, self.CHECKPOINT_NAME_LAST)
        return first_free(stem, self.FILE_EXTENSION, taken)

    # --- and on all -------------------------------------------------------------------------------------

    def _apply(self, trainer: Trainer, decision: Decision) -> None:
        previous = self.last_model_path
        if decision.save or decision.last:
            self._saved_at = trainer.global_step
        self.current_score = decision.score
        if decision.last:
            self.last_model_path = decision.last
        if decision.save:
            # the state goes into the file, so it must already name the file
            self.top_k.put(decision.save, decision.score, instead_of=decision.remove)
            best = self.best_model_path = self.top_k.best
            self.best_model_score = self.kept[best] if self.monitor is not None else None
            trainer.save_checkpoint(decision.save, self.save_weights_only)
        if decision.last:
            self._write_last(trainer, decision)
        stale = {decision.remove}
        if decision.last and _is_below(previous, self._folder(trainer)):
            stale.add(
                previous
            )  # one in another folder is that of the run from which this one was resumed
        for path in stale - {"", decision.save, decision.last}:
            trainer.strategy.remove_checkpoint(path)
        if trainer.is_global_zero and (decision.save or decision.last):
            tell(trainer.loggers, "after_save_checkpoint", self)
        if self.verbose and trainer.is_global_zero:
            print(_report(decision, self.monitor), file=sys.stderr)

    def _write_last(self, trainer: Trainer, decision: Decision) -> None:
        newest = next(reversed(self.kept), "")
        if self.save_last == "link" and newest:
            if decision.save and trainer.is_global_zero:
                link = lambda: files.link(decision.last, newest)  # noqa: E731
                trainer.strategy.checkpoint_io.when_written(link)
            return
        if trainer.is_global_zero and os.path.islink(decision.last):
            os.unlink(decision.last)  # a write would go through the link, into a file that is kept
        trainer.save_checkpoint(decision.last, self.save_weights_only)

    # --- what there is ----------------------------------------------------------------------------------

    def find_last(self, trainer: Trainer) -> str:
        """This run's last checkpoint, or the newest of earlier runs; "" if there is none. Makes no folder."""
        if self.last_model_path and files.exists(self.last_model_path):
            return self.last_model_path
        name = re.sub(r"\\\{.*?\\\}", ".*", re.escape(self.CHECKPOINT_NAME_LAST))
        file = re.compile(rf"{name}(?:-v\d+)?{re.escape(self.FILE_EXTENSION)}")
        found = [
            files.join(folder, each)
            for folder in self.folders(trainer)
            for each in files.list_folder(folder)
            if file.fullmatch(each)
        ]
        return max(found, key=lambda path: (files.modified(path), path), default="")

    def folders(self, trainer: Trainer) -> list[str]:
        """Where this callback may have kept files: in its own folder, or in those of all runs of the logger."""
        if self.dirpath is not None:
            return [self.dirpath]
        folders = [files.join(trainer.default_root_dir, "checkpoints")]
        save_dir = getattr(trainer.logger, "save_dir", None)
        if save_dir is not None:
            name = getattr(trainer.logger, "name", None)
            root = files.join(save_dir, *([str(name)] if name else []))
            folders += [files.join(root, run, "checkpoints") for run in files.list_folder(root)]
        return folders


def run_folder(trainer: Trainer) -> str:
    """The folder of the run: the first logger's, where it has one, or else `default_root_dir`."""
    save_dir, name, version = (
        getattr(trainer.logger, each, None) for each in ("save_dir", "name", "version")
    )
    if save_dir is None or version is None:
        return trainer.default_root_dir
    run = version if isinstance(version, str) else f"version_{version}"
    return files.join(save_dir, *([str(name)] if name else []), run)


def _values(trainer: Trainer, reason: str) -> dict[str, Any]:
    """What file names may be made of; the epoch is that of the weights, also when it was closed just now."""
    return {
        **{name: float(value) for name, value in trainer.callback_metrics.items()},
        "epoch": trainer.current_epoch - (reason == "epoch"),
        "step": trainer.global_step,
    }


def _is_below(path: str, folder: str) -> bool:
    return bool(path) and files.absolute(path).startswith(files.join(files.absolute(folder), ""))


def _report(decision: Decision, monitor: str | None) -> str:
    score = (
        "" if monitor is None or decision.score is None else f" ({monitor}={decision.score:.5g})"
    )
    if decision.save:
        return f"checkpoint{score}: {decision.save}"
    return f"checkpoint{score}: not among those to keep" + (
        f"; the last: {decision.last}" if decision.last else ""
    )


def _check(monitor: str | None, mode: str, save_top_k: Any, save_last: Any) -> None:
    if mode not in ("min", "max"):
        raise ConfigurationError(f"ModelCheckpoint(mode={mode!r}): must be 'min' or 'max'")
    if not isinstance(save_top_k, int) or save_top_k < -1:
        raise ConfigurationError(
            f"ModelCheckpoint(save_top_k={save_top_k!r}): must be a whole number from -1"
        )
    if monitor is None and save_top_k not in (-1, 0, 1):
        raise ConfigurationError(
            f"ModelCheckpoint(save_top_k={save_top_k}) needs monitor= to tell which are best"
        )
    if save_last not in (None, True, False, "link"):
        raise ConfigurationError(
            f"ModelCheckpoint(save_last={save_last!r}): must be True, False or 'link'"
        )
