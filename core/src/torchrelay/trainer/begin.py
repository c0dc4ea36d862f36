"""What happens in each process between meeting the others and placing the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchrelay.data_hooks import DataHooks
from torchrelay.errors import ConfigurationError
from torchrelay.loggers.logger import tell
from torchrelay.loggers.ranks import share, tell_rank
from torchrelay.module import LightningModule, is_overridden

if TYPE_CHECKING:
    from torchrelay.trainer.session import Session


def begin(session: Session) -> None:
    """Prepare data, set up data module, callbacks and module, make the model, and tell loggers of it. Collective."""
    share_loggers(session)
    prepare_data(session)
    job, trainer = session.job, session.trainer
    if job.datamodule is not None:
        job.datamodule.setup(job.stage)
    for callback in trainer.callbacks:
        callback.setup(trainer, job.module, job.stage)
    job.module.setup(job.stage)
    configure_model(session)
    if job.stage == "fit" and session.options.enable_autolog_hparams:
        log_hyperparameters(session)


def share_loggers(session: Session) -> None:
    """Let every rank know the run's folder, and only the first record. Collective where there are loggers."""
    strategy, loggers = session.strategy, session.trainer.loggers
    if strategy.world_size > 1 and loggers:
        share(loggers, strategy.global_rank, strategy.collectives.broadcast)
    else:
        tell_rank(strategy.global_rank)


def prepare_data(session: Session) -> None:
    """Let one process of each node make the data, while the others wait; free if nobody has any to make. Collective."""
    strategy = session.strategy
    owners = [
        owner
        for owner in (session.job.datamodule, session.module)
        if owner is not None and is_overridden("prepare_data", owner, DataHooks)
    ]
    for owner in owners:
        if strategy.local_rank == 0 and (owner.prepare_data_per_node or strategy.node_rank == 0):
            owner.prepare_data()
    if owners:
        strategy.collectives.barrier("prepare_data")


def configure_model(session: Session) -> None:
    """Let the module make its layers in the format of the run's precision."""
    if is_overridden("configure_model", session.module, LightningModule):
        with session.strategy.init_context():
            session.module.configure_model()


def log_hyperparameters(session: Session) -> None:
    """Give the hyper-parameters to the loggers that take them, on rank 0.

    Raises:
        ConfigurationError: the module and the data module have different values of one name.
    """
    values = hyperparameters_to_log(session)
    if values and session.strategy.is_global_zero:
        tell(session.trainer.loggers, "log_hyperparams", values)


def hyperparameters_to_log(session: Session) -> dict[str, Any]:
    """Those of the module and those of the data module, which must not contradict each other."""
    mine: Mapping[str, Any] = session.module.hparams_to_log()
    data = session.job.datamodule
    of_data: Mapping[str, Any] = {} if data is None else data.hparams_to_log()
    differing = [name for name in mine if name in of_data and mine[name] is not of_data[name]]
    differing = [name for name in differing if _differ(mine[name], of_data[name])]
    if differing:
        raise ConfigurationError(
            f"{type(session.module).__name__} and {type(data).__name__} have different hyper-parameters "
            f"{', '.join(map(repr, differing))}; rename them in one, or save_hyperparameters(logger=False) in one"
        )
    return {**mine, **of_data}


def _differ(one: Any, other: Any) -> bool:
    equal = one == other
    return not (equal if isinstance(equal, bool) else equal is other)
