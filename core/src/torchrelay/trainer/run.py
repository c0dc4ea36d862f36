"""How a job runs: refused or launched by the caller's process, then set up, done and torn down in each process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torchrelay.checkpoint import files
from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.checkpoint.model_state import check_model_state
from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.launchers.failure import mark
from torchrelay.module import LightningModule, ModuleHooks, is_overridden
from torchrelay.plugin.registry import get_registry
from torchrelay.strategies.steps import shape_of
from torchrelay.trainer import snapshot
from torchrelay.trainer.begin import begin
from torchrelay.trainer.evaluate import evaluate, predict
from torchrelay.trainer.fit import fit
from torchrelay.trainer.needs import refuse_unsupported
from torchrelay.trainer.session import Job, Session, no_data

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

STAGES: dict[str, Callable[[Session], Any]] = {
    "fit": fit,
    "validate": evaluate,
    "test": evaluate,
    "predict": predict,
}

STEP_NAMES = {"fit": "training_step", "validate": "validation_step", "test": "test_step"}


@dataclass
class Outcome:
    """What a caller whose own process took no part receives.

    Attributes:
        result: what the stage returned.
        model_state: the fitted parameters and buffers, by name, on the CPU; empty when nothing was fitted.
        metrics: every metric, by name.
        callbacks: states of the callbacks.
        progress: the counters.
        logged: what loggers received last.
    """

    result: Any
    model_state: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)


def execute(trainer: Trainer, job: Job) -> Any:
    """Run a job in as many processes as the strategy makes; what the stage returned on rank 0.

    Raises:
        UserError: the job cannot be run as it is; no process has been started.
        WorkerError: another process failed.
    """
    check(trainer, job)
    registry = get_registry()
    registry.notify("torchrelay_before_launch", strategy=trainer.strategy)
    launcher = trainer.strategy.launcher
    if launcher is None:
        return work(trainer, job).result
    outcome: Outcome = launcher.launch(work, trainer, job)
    if launcher.returns_to_caller:
        adopt(trainer, job, outcome)
    return outcome.result


def check(trainer: Trainer, job: Job) -> None:
    """Refuse, before any process starts, what is known to fail."""
    module = job.module
    if not isinstance(module, LightningModule):
        raise ConfigurationError(
            f"{job.stage} needs a torchrelay.LightningModule, not {type(module).__name__}"
        )
    needed = [STEP_NAMES[job.stage]] if job.stage in STEP_NAMES else []
    needed += ["configure_optimizers"] if job.stage == "fit" else []
    for name in needed:
        if not is_overridden(name, module, LightningModule):
            raise ConfigurationError(
                f"{type(module).__name__} has no {name}; {job.stage} needs it: define "
                f"{name}(self{', batch, batch_idx' if name.endswith('step') else ''})"
            )
    for name in (*STEP_NAMES.values(), "predict_step"):
        shape_of(module, name)
    data = "train" if job.stage == "fit" else job.stage
    if not job.has_data(data):
        raise no_data(job, data)
    for stage, loader in job.loaders.items():
        if loader is not None and not isinstance(loader, Iterable):
            raise ConfigurationError(
                f"{job.stage} got {loader!r} as the data of {stage}; give a DataLoader or another iterable of batches"
            )
    if job.stage == "fit" and trainer.checkpointers:
        snapshot.hyper_parameters(job)  # what could not be saved is better known now
    refuse_unsupported(trainer.strategy, trainer.options, module, job.stage)
    if job.ckpt_path is not None:
        check_checkpoint(trainer, job, job.ckpt_path)


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
        if files.is_folder(path):
            return  # a backend's own form, which it reads itself
        checkpoint = to_canonical(io.load_checkpoint(path, weights_only=job.weights_only))
        if not is_overridden("on_load_checkpoint", job.module, ModuleHooks):
            check_model_state(job.module, checkpoint["state_dict"])


def work(trainer: Trainer, job: Job) -> Outcome:
    """Do a job in this process, which is one of those of the run."""
    session = trainer.session = Session(trainer, job)
    job.module.trainer = trainer
    if job.datamodule is not None:
        job.datamodule.trainer = trainer
    try:
        outcome = _do(session)
    except BaseException as error:
        mark(error)
        for follow_up in (partial(_tell_of, error), _tear_down):
            try:
                follow_up(session)
            except Exception as another:  # noqa: BLE001 - the first error is the one to see
                warnings.warn(f"after {error!r}, this failed as well: {another!r}", stacklevel=2)
        raise
    _tear_down(session)
    return outcome


def _do(session: Session) -> Outcome:
    trainer, job, strategy = session.trainer, session.job, session.strategy
    strategy.setup_environment()
    session.connected = True
    begin(session)
    strategy.setup(job.module, session.build if job.stage == "fit" else None)
    get_registry().notify("torchrelay_after_setup", strategy=strategy)
    if job.ckpt_path is not None:
        checkpoint = strategy.load_checkpoint(job.ckpt_path, weights_only=job.weights_only)
        snapshot.restore(session, checkpoint)
    return _outcome(trainer, session, STAGES[job.stage](session))


def _tell_of(error: BaseException, session: Session) -> None:
    session.strategy.on_exception(error)
    get_registry().notify("torchrelay_on_exception", strategy=session.strategy, error=error)
    if session.job.datamodule is not None:
        session.job.datamodule.on_exception(error)
    _each(session.trainer, "on_exception", session.module, error)


def _tear_down(session: Session) -> None:
    session.connected = False
    stage, data = session.job.stage, session.job.datamodule
    try:
        if data is not None:
            data.teardown(stage)
        _each(session.trainer, "teardown", session.module, stage)
        session.module.teardown(stage)
    finally:
        session.strategy.teardown()
        get_registry().notify("torchrelay_after_teardown", strategy=session.strategy)
        session.module.trainer = None
        if data is not None:
            data.trainer = None


def _each(trainer: Trainer, name: str, module: LightningModule, argument: Any) -> None:
    for callback in trainer.callbacks:
        getattr(callback, name)(trainer, module, argument)


def _outcome(trainer: Trainer, session: Session, result: Any) -> Outcome:
    launcher = trainer.strategy.launcher
    if launcher is None or not launcher.returns_to_caller:
        return Outcome(result)
    fitted = session.job.stage == "fit"
    state = trainer.strategy.model_state() if fitted else {}
    return Outcome(
        result,
        {name: value.cpu() if hasattr(value, "cpu") else value for name, value in state.items()},
        session.values(),
        snapshot.callback_states(trainer.callbacks),
        session.progress.state_dict(),
        trainer.logged_metrics,
    )


def adopt(trainer: Trainer, job: Job, outcome: Outcome) -> None:
    """Give the caller's module, callbacks and trainer what was reached in the other processes."""
    if outcome.model_state:
        job.module.configure_model()
        job.module.load_state_dict(outcome.model_state)
    for key, callback in snapshot.keyed(trainer.callbacks).items():
        if key in outcome.callbacks:
            callback.load_state_dict(outcome.callbacks[key])
    trainer.progress.load_state_dict(outcome.progress)
    trainer.received_metrics = outcome.metrics
    trainer.logged_metrics = outcome.logged
