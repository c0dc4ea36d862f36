"""What is known to fail, refused before any process starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torchrelay.checkpoint import files, own_forms
from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.checkpoint.model_state import check_model_state
from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.module import LightningModule, is_overridden
from torchrelay.strategies.steps import STEPS, shape_of
from torchrelay.trainer import snapshot
from torchrelay.trainer.loaders import no_data
from torchrelay.trainer.needs import refuse_unsupported
from torchrelay.trainer.session import Job

MAKES_LAYERS = ("on_load_checkpoint", "configure_model", "setup")
"""Hooks in which a module may make or change its layers when the run has begun."""

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

NEEDED = {
    "fit": ("training_step", "configure_optimizers"),
    "validate": ("validation_step",),
    "test": ("test_step",),
    "predict": (),
}
"""What a module must define for a job."""


def check(trainer: Trainer, job: Job) -> None:
    """Refuse, before any process starts, what is known to fail."""
    module = job.module
    if not isinstance(module, LightningModule):
        raise ConfigurationError(
            f"{job.stage} needs a torchrelay.LightningModule, not {type(module).__name__}"
        )
    for name in NEEDED[job.stage]:
        if not is_overridden(name, module, LightningModule):
            raise ConfigurationError(
                f"{type(module).__name__} has no {name}; {job.stage} needs it: define "
                f"{name}(self{', batch, batch_idx' if name.endswith('step') else ''})"
            )
    for name in STEPS:
        shape_of(module, name)
    check_data(job)
    if job.stage == "fit" and trainer.checkpointers:
        snapshot.hyper_parameters(job)  # what could not be saved is better known now
    if job.stage == "fit":
        check_folders(trainer)
    refuse_unsupported(trainer.strategy, trainer.options, module, job.stage)
    if job.ckpt_path is not None:
        check_checkpoint(trainer, job, job.ckpt_path)


def check_data(job: Job) -> None:
    """Refuse a job without data, and data that cannot be read.

    Raises:
        ConfigurationError: it is one of those.
    """
    data = "train" if job.stage == "fit" else job.stage
    if not job.has_data(data):
        raise no_data(job, data)
    for stage, loader in job.loaders.items():
        if loader is not None and not isinstance(loader, Iterable):
            raise ConfigurationError(
                f"{job.stage} got {loader!r} as the data of {stage}; give a DataLoader or another iterable of batches"
            )


def check_folders(trainer: Trainer) -> None:
    """Refuse folders into which the run would write, and cannot; it is rank 0 that writes.

    Raises:
        ConfigurationError: there is such a folder.
    """
    if trainer.options.fast_dev_run or trainer.strategy.cluster_environment.global_rank:
        return
    for what, advice, folder in _folders(trainer):
        if reason := files.obstacle(folder):
            raise ConfigurationError(
                f"{what} cannot write to {folder}: {reason}; give {advice} that can be written, or change its "
                "permissions"
            )


def _folders(trainer: Trainer) -> Iterator[tuple[str, str, str]]:
    """Who writes, what would change where, and the folder."""
    for logger in trainer.loggers:
        folder = getattr(logger, "save_dir", None)
        if isinstance(folder, (str, os.PathLike)):
            yield type(logger).__name__, "default_root_dir or save_dir", os.fspath(folder)
    for keeper in trainer.checkpointers:
        folder = getattr(keeper, "dirpath", None)
        advice = "default_root_dir" if folder is None else "dirpath"
        yield type(keeper).__name__, advice, os.fspath(folder or trainer.default_root_dir)


def check_checkpoint(trainer: Trainer, job: Job, path: str) -> None:
    """Refuse a checkpoint that is missing, and, where processes are about to be started, one that is of no use.

    The file is read once more for that; a failure in each of many processes costs more.

    Raises:
        CheckpointError: it is missing, torn, carries pickled code, or is of another model.
    """
    if not files.exists(path):
        raise CheckpointError(f"ckpt_path={path!r} does not exist")
    launcher, environment = trainer.strategy.launcher, trainer.strategy.cluster_environment
    if launcher is not None and not environment.creates_processes:
        io = trainer.strategy.checkpoint_io
        if own_forms.form_of(path) is not None:
            return  # read by each rank, of which none may have room for the whole
        checkpoint = to_canonical(io.load_checkpoint(path, weights_only=job.weights_only))
        if not any(is_overridden(name, job.module, LightningModule) for name in MAKES_LAYERS):
            check_model_state(job.module, checkpoint["state_dict"])
