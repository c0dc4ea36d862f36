"""A run's whole state as one canonical checkpoint, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchrelay.checkpoint import schema
from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.errors import CheckpointError
from torchrelay.module import ModuleHooks, is_overridden
from torchrelay.strategies.strategy import Strategy

if TYPE_CHECKING:
    from torchrelay.trainer.session import Job, Session


def dump(session: Session, *, weights_only: bool = False) -> dict[str, Any]:
    """The checkpoint of a run at this point. Collective; complete on rank 0.

    Without weights and optimizer states where the strategy writes them itself.

    Args:
        session: the run.
        weights_only: leave out everything but the model and its hyper-parameters.
    """
    strategy, trainer = session.strategy, session.trainer
    if not weights_only:
        session.tell_of_open_window()
    sharded = strategy.saves_sharded and not weights_only
    checkpoint: dict[str, Any] = {
        **({} if sharded else {"state_dict": strategy.model_state()}),
        "epoch": session.progress.epoch,
        "global_step": session.progress.global_step,
        **hyper_parameters(session.job),
        "torchrelay": _manifest(session),
    }
    if not weights_only:
        if not sharded:
            optimizers = [strategy.optimizer_state(each) for each in strategy.optimizers]
            checkpoint["optimizer_states"] = optimizers
        checkpoint["lr_schedulers"] = [c.scheduler.state_dict() for c in session.schedulers]
        checkpoint["loops"] = {"fit": _progress(session)}
        checkpoint["callbacks"] = callback_states(trainer.callbacks)
        checkpoint["precision"] = strategy.precision_plugin.state_dict()
        checkpoint |= _states_of_ranks(session)
        checkpoint |= _data_state(session)
    for callback in trainer.callbacks:
        callback.on_save_checkpoint(trainer, session.module, checkpoint)
    session.module.on_save_checkpoint(checkpoint)
    return checkpoint


def hyper_parameters(job: Job) -> dict[str, Any]:
    """The hyper-parameters of the module and, if it has some, of the data module.

    Raises:
        CheckpointError: one is no plain data.
    """
    data = job.datamodule
    of_data = data.hparams_state() if data is not None and data.hparams else {}
    return {**job.module.hparams_state(), **of_data}


def _data_state(session: Session) -> dict[str, Any]:
    data = session.job.datamodule
    state = {} if data is None else data.state_dict()
    return {data.state_key: state} if data is not None and state else {}


def _states_of_ranks(session: Session) -> dict[str, Any]:
    """What each rank has of its own: random states, metrics, the place of its data if that says one. Collective."""
    portions, states = session.loaders.opened("train"), session.epoch_rng
    mine = {
        "rng": {"now": states.capture(), "epoch_start": states.at_start},
        "metrics": session.metric_states(),
        "loaders": portions[0].state() if portions else None,
    }
    ranks = session.strategy.collectives.gather_objects(mine)
    gathered = {name: [each[name] for each in ranks] for name in mine}
    return {
        name: {"ranks": states}
        for name, states in gathered.items()
        if states != [None] * len(ranks)
    }


def _of_this_rank(session: Session, checkpoint: Mapping[str, Any], name: str) -> Any:
    """What this rank had of its own; None where there was another number of ranks."""
    ranks = (checkpoint.get(name) or {}).get("ranks") or []
    return (
        ranks[session.strategy.global_rank] if len(ranks) == session.strategy.world_size else None
    )


def _manifest(session: Session) -> dict[str, Any]:
    """Who writes the checkpoint; a strategy that the user made comes from no distribution."""
    strategy, chosen = session.strategy, session.trainer.resolution.strategy
    facts: dict[str, Any] = {"strategy": type(strategy).__name__, "world_size": strategy.world_size}
    if not isinstance(chosen, Strategy):
        facts |= {
            "alias": chosen.spec.alias,
            "distribution": chosen.owner.distribution,
            "distribution_version": chosen.owner.version,
        }
    return schema.make_manifest(**facts)


def callback_states(callbacks: list[Any]) -> dict[str, Any]:
    """The states of those callbacks that have one, by their keys."""
    states = {key: callback.state_dict() for key, callback in keyed(callbacks).items()}
    return {key: state for key, state in states.items() if state}


def keyed(callbacks: list[Any]) -> dict[str, Any]:
    """The callbacks by their keys; the second of a key gets "#2" behind it, and so on."""
    found: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for callback in callbacks:
        key = callback.state_key
        seen[key] += 1
        found[key if seen[key] == 1 else f"{key}#{seen[key]}"] = callback
    return found


def read_for_module(session: Session, path: str) -> dict[str, Any] | None:
    """The checkpoint, if the module wants to see it, as it may make layers of its sizes before optimizers are built.

    None if it does not. Collective.
    """
    module = session.module
    if not is_overridden("on_load_checkpoint", module, ModuleHooks):
        return None
    read = session.strategy.load_checkpoint(path, weights_only=session.job.weights_only)
    checkpoint = dict(to_canonical(read))
    module.on_load_checkpoint(checkpoint)
    return checkpoint


def restore(
    session: Session, checkpoint: Mapping[str, Any], *, module_was_told: bool = False
) -> None:
    """Take up a run from a checkpoint; the strategy is set up.

    Raises:
        CheckpointError: it is of another model, or has no state to train on from.
    """
    strategy, trainer = session.strategy, session.trainer
    checkpoint = to_canonical(checkpoint)
    if not module_was_told:
        session.module.on_load_checkpoint(dict(checkpoint))
    for callback in trainer.callbacks:
        callback.on_load_checkpoint(trainer, session.module, dict(checkpoint))
    strategy.load_model_state(checkpoint["state_dict"])
    data = session.job.datamodule
    if data is not None and data.state_key in checkpoint:
        data.load_state_dict(checkpoint[data.state_key])
    if session.job.stage != "fit":
        return
    _restore_optimizers(session, checkpoint)
    strategy.precision_plugin.load_state_dict(dict(checkpoint.get("precision") or {}))
    for key, callback in keyed(trainer.callbacks).items():
        state = (checkpoint.get("callbacks") or {}).get(key)
        if state is not None:
            callback.load_state_dict(state)
    _restore_progress(session, checkpoint)
    _restore_rng(session, checkpoint)
    session.place = _of_this_rank(session, checkpoint, "loaders")
    _restore_metrics(session, checkpoint)


def _restore_optimizers(session: Session, checkpoint: Mapping[str, Any]) -> None:
    strategy = session.strategy
    if "optimizer_states" not in checkpoint:
        raise CheckpointError(
            "the checkpoint holds weights alone, so training cannot go on from it; load them with "
            "module.load_state_dict(...) and fit without ckpt_path"
        )
    for kind, here, there in (
        ("optimizers", strategy.optimizers, checkpoint["optimizer_states"]),
        ("learning-rate schedulers", session.schedulers, checkpoint["lr_schedulers"]),
    ):
        if len(here) != len(there):
            raise CheckpointError(
                f"the checkpoint has {len(there)} {kind} and configure_optimizers returns {len(here)}; resume with the "
                "same configure_optimizers"
            )
    for optimizer, state in zip(strategy.optimizers, checkpoint["optimizer_states"], strict=True):
        strategy.load_optimizer_state(optimizer, state)
    for config, state in zip(session.schedulers, checkpoint["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(state)


def _progress(session: Session) -> dict[str, Any]:
    """The counters, in the user's batches, of which a strategy may make larger ones."""
    state = session.progress.state_dict()
    counted = {name: state[name] * session.combined for name in ("batch", "batches")}
    at_end = state["batch"] == session.trainer.num_training_batches
    return {
        **state,
        **counted,
        "of": session.epoch_batches,
        "at_end": at_end,
        "validated": session.validated_at == state["batches"],
        "followed": session.followed_at == state["batches"],
        "should_stop": session.trainer.should_stop,
    }


def _restore_progress(session: Session, checkpoint: Mapping[str, Any]) -> None:
    loops = (checkpoint.get("loops") or {}).get("fit", {})
    if "global_step" in loops:
        together = session.combined
        if loops["batch"] % together and not loops.get("at_end"):
            raise CheckpointError(
                f"the checkpoint was made {loops['batch']} batches into an epoch, and "
                f"{type(session.strategy).__name__} takes {together} at a time; resume from a checkpoint made after "
                "an epoch"
            )
        counted = {name: -(-loops[name] // together) for name in ("batch", "batches")}
        session.progress.load_state_dict({**loops, **counted})
        session.resumed = loops
        session.validated_at = session.progress.batches if loops.get("validated") else -1
        session.followed_at = session.progress.batches if loops.get("followed") else -1
    else:
        session.progress.epoch = int(checkpoint.get("epoch", 0))
        session.progress.global_step = int(checkpoint.get("global_step", 0))


def _restore_rng(session: Session, checkpoint: Mapping[str, Any]) -> None:
    mine = _of_this_rank(session, checkpoint, "rng")
    if mine is not None:  # other ranks draw other numbers anyway
        inside = session.progress.batch
        session.epoch_rng.resume(mine["epoch_start"] if inside else None, mine["now"])


def _restore_metrics(session: Session, checkpoint: Mapping[str, Any]) -> None:
    """Take up the metrics; with another number of ranks those of rank 0, for epochs that are over are the same."""
    ranks = (checkpoint.get("metrics") or {}).get("ranks") or [None]
    mine = _of_this_rank(session, checkpoint, "metrics")
    session.load_metric_states(ranks[0] if mine is None else mine)
