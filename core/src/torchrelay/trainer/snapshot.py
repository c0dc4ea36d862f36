"""A run's whole state as one canonical checkpoint, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchrelay.checkpoint import files, rng, schema
from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.errors import CheckpointError
from torchrelay.module import ModuleHooks, is_overridden
from torchrelay.strategies.strategy import Strategy

if TYPE_CHECKING:
    from torchrelay.trainer.session import Job, Session


class EpochRNG:
    """The random state at the beginning of an epoch, which decides the order of its data."""

    def __init__(self) -> None:
        self.at_start: dict[str, Any] | None = None
        self._resume_from: dict[str, Any] | None = None
        self._then: dict[str, Any] | None = None

    def begin(self) -> None:
        """Note the state at an epoch's beginning; in a resumed epoch, return to it."""
        if self._resume_from is not None:
            rng.restore(self._resume_from)
            self._resume_from = None
        self.at_start = rng.capture()

    def continue_from_checkpoint(self) -> None:
        """After the data of a resumed epoch is under way, go on with the state of the checkpoint."""
        if self._then is not None:
            rng.restore(self._then)
            self._then = None

    def resume(self, at_start: dict[str, Any], then: dict[str, Any]) -> None:
        """Let the next epoch begin from one state and go on with another."""
        self._resume_from, self._then = at_start, then


def dump(session: Session, *, weights_only: bool = False) -> dict[str, Any]:
    """The checkpoint of a run at this point. Collective; complete on rank 0.

    Args:
        session: the run.
        weights_only: leave out everything but the model and its hyper-parameters.
    """
    strategy, trainer = session.strategy, session.trainer
    checkpoint: dict[str, Any] = {
        "state_dict": strategy.model_state(),
        "epoch": session.progress.epoch,
        "global_step": session.progress.global_step,
        **hyper_parameters(session.job),
        "torchrelay": _manifest(session),
    }
    if not weights_only:
        checkpoint["optimizer_states"] = [strategy.optimizer_state(o) for o in strategy.optimizers]
        checkpoint["lr_schedulers"] = [c.scheduler.state_dict() for c in session.schedulers]
        checkpoint["loops"] = {"fit": _progress(session)}
        checkpoint["callbacks"] = callback_states(trainer.callbacks)
        checkpoint["precision"] = strategy.precision_plugin.state_dict()
        checkpoint["rng"] = _gathered_rng(session)
        checkpoint |= _loader_states(session)
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


def _loader_states(session: Session) -> dict[str, Any]:
    """What each rank's training data says of its place; nothing where it says none. Collective."""
    portions = session.loaders.opened("train")
    if not portions or not portions[0].is_stateful:
        return {}
    return {"loaders": {"ranks": session.strategy.collectives.gather_objects(portions[0].state())}}


def _restore_loader(session: Session, checkpoint: Mapping[str, Any]) -> None:
    ranks = (checkpoint.get("loaders") or {}).get("ranks") or []
    if len(ranks) == session.strategy.world_size:
        session.loader_state = ranks[session.strategy.global_rank]


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

    None if it does not, and for a backend's own form, which is read after the strategy is set up. Collective.
    """
    module = session.module
    if not is_overridden("on_load_checkpoint", module, ModuleHooks) or files.is_folder(path):
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
    _restore_loader(session, checkpoint)


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
    return {**state, **counted, "of": session.epoch_batches, "at_end": at_end}


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
    else:
        session.progress.epoch = int(checkpoint.get("epoch", 0))
        session.progress.global_step = int(checkpoint.get("global_step", 0))


def _gathered_rng(session: Session) -> dict[str, Any]:
    """Each rank's random states: now, and at the epoch's beginning."""
    mine = {"now": rng.capture(), "epoch_start": session.epoch_rng.at_start}
    ranks = session.strategy.collectives.gather_objects(mine)
    return {"ranks": ranks}


def _restore_rng(session: Session, checkpoint: Mapping[str, Any]) -> None:
    ranks = (checkpoint.get("rng") or {}).get("ranks") or []
    if len(ranks) != session.strategy.world_size:
        return  # other ranks draw other numbers anyway
    mine = ranks[session.strategy.global_rank]
    if session.progress.batch and mine["epoch_start"] is not None:
        session.epoch_rng.resume(mine["epoch_start"], mine["now"])
    else:
        rng.restore(mine["now"])
