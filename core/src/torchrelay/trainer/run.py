"""How a job runs: refused or launched by the caller's process, then set up, done and torn down in each process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torchrelay.environments.program import is_interactive
from torchrelay.launchers.failure import mark
from torchrelay.launchers.interruption import KeyboardInterrupted
from torchrelay.loggers import ranks
from torchrelay.module import LightningModule
from torchrelay.plugin.registry import get_registry
from torchrelay.profilers.watching import watching
from torchrelay.trainer import snapshot
from torchrelay.trainer.begin import begin
from torchrelay.trainer.checks import check
from torchrelay.trainer.equipment import with_those_of
from torchrelay.trainer.evaluate import evaluate, predict
from torchrelay.trainer.fit import fit
from torchrelay.trainer.resume import check_progress
from torchrelay.trainer.session import Job, Session
from torchrelay.trainer.settings import runtime
from torchrelay.trainer.watchdog import guarding
from torchrelay.utilities.messages import show_messages

if TYPE_CHECKING:
    from torchrelay.trainer.trainer import Trainer

STAGES: dict[str, Callable[[Session], Any]] = {
    "fit": fit,
    "validate": evaluate,
    "test": evaluate,
    "predict": predict,
}


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
        versions: the run of each logger.
    """

    result: Any
    model_state: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    logged: dict[str, Any] = field(default_factory=dict)
    versions: list[Any] = field(default_factory=list)


def execute(trainer: Trainer, job: Job) -> Any:
    """Run a job in as many processes as the strategy makes; what the stage returned on rank 0.

    A fit that is interrupted from the keyboard returns where a person types the program, and ends a script.

    Raises:
        UserError: the job cannot be run as it is; no process has been started.
        WorkerError: another process failed.
        Interrupted: a signal asked a fit to end, and it has been saved.
        KeyboardInterrupted: the program runs from a script, and was interrupted from the keyboard.
    """
    trainer.interrupted = False
    check(trainer, job)
    trainer.callbacks = with_those_of(job.module, trainer.callbacks)
    try:
        return launch(trainer, job)
    except KeyboardInterrupt as error:
        trainer.interrupted = True
        _report_interruption(trainer, job)
        if not is_interactive():
            raise KeyboardInterrupted from error
        if job.stage != "fit":
            raise
        return None


def launch(trainer: Trainer, job: Job) -> Any:
    """Run a job that has been checked; what the stage returned on rank 0."""
    get_registry().notify("torchrelay_before_launch", strategy=trainer.strategy)
    launcher = trainer.strategy.launcher
    if launcher is None:
        return work(trainer, job).result
    outcome: Outcome = launcher.launch(work, trainer, job)
    if launcher.returns_to_caller:
        adopt(trainer, job, outcome)
    return outcome.result


def _report_interruption(trainer: Trainer, job: Job) -> None:
    if trainer.strategy.cluster_environment.global_rank == 0:
        where = f"epoch {trainer.current_epoch}, update {trainer.global_step}"
        sys.stderr.write(f"torchrelay: {job.stage} was interrupted from the keyboard at {where}\n")


def work(trainer: Trainer, job: Job) -> Outcome:
    """Do a job in this process, which is one of those of the run."""
    show_messages()
    session = trainer.session = Session(trainer, job)
    job.module.trainer = trainer
    if job.datamodule is not None:
        job.datamodule.trainer = trainer
    options = trainer.options
    with ExitStack() as around:
        around.enter_context(
            runtime(options.deterministic, options.benchmark, options.detect_anomaly)
        )
        if job.stage == "fit":
            around.enter_context(session.interruption.listening())
        return _work(session)


def _work(session: Session) -> Outcome:
    try:
        outcome = _do(session)
    except BaseException as error:
        session.interruption.leave(error)
        mark(error)
        for follow_up in (partial(_tell_of, error), partial(_tear_down, status="failed")):
            try:
                follow_up(session)
            except Exception as another:  # noqa: BLE001 - the first error is the one to see
                warnings.warn(f"after {error!r}, this failed as well: {another!r}", stacklevel=2)
        raise
    _tear_down(session, "success")
    return outcome


def _do(session: Session) -> Outcome:
    trainer, job, strategy = session.trainer, session.job, session.strategy
    fitting = job.stage == "fit"
    strategy.setup_environment()
    session.connected = True
    log_dir = trainer.log_dir if session.watcher is not None else None
    with (
        guarding(trainer.hang_timeout, strategy),
        watching(session.watcher, strategy, job.module, job.stage, log_dir),
    ):
        begin(session)
        # Each rank has resolved the path, and may have seen another newest file; one that has joined has no other.
        path = session.agree(strategy.recovers_from or job.ckpt_path)
        checkpoint = None if path is None else snapshot.read_for_module(session, path)
        strategy.setup(job.module, session.build if fitting else None)
        get_registry().notify("torchrelay_after_setup", strategy=strategy)
        if fitting:
            session.tell_loggers("log_graph", job.module)
        if path is not None:
            _restore(session, path, checkpoint)
        result = STAGES[job.stage](session)
    return _outcome(trainer, session, result)


def _restore(session: Session, path: str, checkpoint: dict[str, Any] | None) -> None:
    """Begin from a checkpoint, which has been read or not. Collective."""
    job, told = session.job, checkpoint is not None
    if checkpoint is None:
        checkpoint = session.strategy.load_checkpoint(path, weights_only=job.weights_only)
    snapshot.restore(session, checkpoint, module_was_told=told)
    if job.stage == "fit":
        check_progress(session)


def _tell_of(error: BaseException, session: Session) -> None:
    session.strategy.on_exception(error)
    get_registry().notify("torchrelay_on_exception", strategy=session.strategy, error=error)
    if session.job.datamodule is not None:
        session.job.datamodule.on_exception(error)
    _each(session.trainer, "on_exception", session.module, error)


def _tear_down(session: Session, status: str) -> None:
    session.connected = False
    stage, data = session.job.stage, session.job.datamodule
    with ExitStack() as after:
        after.callback(_let_go, session)
        after.callback(session.tell_loggers, "finalize", status)
        if data is not None:
            data.teardown(stage)
        _each(session.trainer, "teardown", session.module, stage)
        session.module.teardown(stage)


def _let_go(session: Session) -> None:
    session.strategy.teardown()
    get_registry().notify("torchrelay_after_teardown", strategy=session.strategy)
    session.module.trainer = None
    if session.job.datamodule is not None:
        session.job.datamodule.trainer = None


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
        ranks.versions(trainer.loggers),
    )


def adopt(trainer: Trainer, job: Job, outcome: Outcome) -> None:
    """Give the caller's module, callbacks and trainer what was reached in the other processes."""
    if outcome.model_state:
        module = job.module
        module.configure_model()
        if module.state_dict().keys() != outcome.model_state.keys():
            module.setup(job.stage)  # some make their layers there
        module.load_state_dict(outcome.model_state)
    for key, callback in snapshot.keyed(trainer.callbacks).items():
        if key in outcome.callbacks:
            callback.load_state_dict(outcome.callbacks[key])
    trainer.progress.load_state_dict(outcome.progress)
    trainer.received_metrics = outcome.metrics
    trainer.logged_metrics = outcome.logged
    ranks.adopt(trainer.loggers, outcome.versions)
