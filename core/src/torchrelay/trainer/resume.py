"""Which checkpoint a run begins from, and the one that it leaves for its restart."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchrelay.checkpoint import files
from torchrelay.environments import preemption
from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.trainer.session import Session
    from torchrelay.trainer.trainer import Trainer

_NAME = re.compile(r"hpc_ckpt_(\d+)\.ckpt")
_JOB = "hpc_ckpt_job.txt"


def resolve_path(trainer: Trainer, ckpt_path: Any, stage: str = "fit") -> str | None:
    """The checkpoint to begin from: a path or URL, what "best", "last" or "hpc" names, or None.

    A fit that SLURM has started again, and that is given none, goes on from the checkpoint which the same job left.

    Args:
        trainer: whose callbacks and folder are asked.
        ckpt_path: what the user gave.
        stage: "fit", "validate", "test" or "predict".

    Raises:
        ConfigurationError: it is no path, or there is nothing of that name.
    """
    if ckpt_path is None:
        return left_by_this_job(trainer) if stage == "fit" else None
    if not isinstance(ckpt_path, (str, os.PathLike)):
        raise ConfigurationError(
            f'ckpt_path={ckpt_path!r} must be a path, "best", "last", "hpc" or None'
        )
    path = os.fspath(ckpt_path)
    if path.startswith("registry:"):
        raise ConfigurationError(
            f"ckpt_path={path!r}: there is no model registry here; download the checkpoint and give its path"
        )
    return _NAMED[path](trainer) if path in _NAMED else path


def _best(trainer: Trainer) -> str:
    found = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not found:
        raise ConfigurationError(
            'ckpt_path="best": no ModelCheckpoint of this Trainer has kept a best checkpoint; fit with one first, or '
            "give the path of the file"
        )
    return str(found)


def _last(trainer: Trainer) -> str:
    """The newest last checkpoint of all that keep one, of this run or an earlier one."""
    keepers: list[Any] = [each for each in trainer.checkpointers if hasattr(each, "find_last")]
    found = [path for keeper in keepers if (path := keeper.find_last(trainer))]
    if not found:
        folders = [folder for keeper in keepers for folder in keeper.folders(trainer)]
        places = ", ".join(dict.fromkeys(folders)) or "any folder, for there is no ModelCheckpoint"
        raise ConfigurationError(
            f'ckpt_path="last": no such checkpoint in {places}; keep one with '
            "ModelCheckpoint(save_last=True) and the same dirpath or default_root_dir, or give the path of the file"
        )
    newest: str = max(found, key=files.modified)
    return newest


def _hpc(trainer: Trainer) -> str:
    found = _left(trainer)
    if not found:
        raise ConfigurationError(
            f'ckpt_path="hpc": no hpc_ckpt_N.ckpt in {trainer.default_root_dir}; such a file is left by a fit that a '
            "signal ended; give the same default_root_dir, or the path of the file"
        )
    return files.join(trainer.default_root_dir, found[max(found)])


_NAMED: dict[str, Callable[[Trainer], str]] = {"best": _best, "last": _last, "hpc": _hpc}


def left_by_this_job(trainer: Trainer) -> str | None:
    """The newest checkpoint that a signal made this SLURM job leave before it was started again; None elsewhere.

    One that another job has left in the same folder is never taken, and a line says which was and which was not.
    """
    environ = trainer.strategy.cluster_environment.environ
    job, found = preemption.job_id(environ), _left(trainer)
    if job is None or not preemption.restarts(environ) or not found:
        return None
    path = files.join(trainer.default_root_dir, found[max(found)])
    mine = _read(files.join(trainer.default_root_dir, _JOB)) == job
    text = (
        f"job {job} was started again and goes on from {path}"
        if mine
        else f'job {job} begins anew: {path} was left by another job; to go on from it, give ckpt_path="hpc"'
    )
    if trainer.strategy.cluster_environment.global_rank == 0:
        sys.stderr.write(f"torchrelay: {text}\n")
    return path if mine else None


def save_for_restart(session: Session) -> str:
    """Save the run where `ckpt_path="hpc"` and a restarted job find it; the path. Collective.

    Older ones are removed once the new one is whole.
    """
    trainer, strategy = session.trainer, session.strategy
    folder = trainer.default_root_dir
    before: dict[int, str] = session.agree(_left(trainer))
    path = files.join(folder, f"hpc_ckpt_{max(before, default=0) + 1}.ckpt")
    trainer.save_checkpoint(path)
    for name in before.values():
        strategy.remove_checkpoint(files.join(folder, name))
    strategy.checkpoint_io.wait()
    if strategy.is_global_zero:
        job = preemption.job_id(strategy.cluster_environment.environ)
        with files.open_to_write(files.join(folder, _JOB)) as file:
            file.write((job or "").encode())
    strategy.collectives.barrier("saved")
    return path


def _left(trainer: Trainer) -> dict[int, str]:
    """The names of the checkpoints for a restart, by number."""
    names = files.list_folder(trainer.default_root_dir)
    return {int(match[1]): name for name in names if (match := _NAME.fullmatch(name))}


def _read(path: str) -> str:
    if not files.exists(path):
        return ""
    with files.open_to_read(path) as file:
        return file.read().decode()


def check_progress(session: Session) -> None:
    """Refuse a checkpoint of more epochs than are to be trained; say so where nothing is left to do.

    Raises:
        ConfigurationError: `max_epochs` is less than the epochs that the checkpoint has.
    """
    options, done = session.options, session.progress
    if done.epoch > options.last_epoch:
        raise ConfigurationError(
            f"the checkpoint {session.job.ckpt_path} has {done.epoch} epochs, but max_epochs={options.max_epochs}; "
            f"give max_epochs={done.epoch + 1} or more to train on, or use validate or test with it"
        )
    complete = done.epoch == options.last_epoch or done.global_step >= options.last_step
    if complete and session.strategy.is_global_zero:
        sys.stderr.write(
            f"torchrelay: nothing is left to train: the checkpoint has {done.epoch} epochs and {done.global_step} "
            f"updates, with max_epochs={options.max_epochs} and max_steps={options.max_steps}; raise them to go on\n"
        )
