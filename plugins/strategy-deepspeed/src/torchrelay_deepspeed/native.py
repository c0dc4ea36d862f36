"""The sharded checkpoint that DeepSpeed writes: a folder to which each rank adds its part."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from torchrelay.errors import CheckpointError
from torchrelay_deepspeed.conversion import NOTES, Weights, client_state, read_native, was_on_nvme
from torchrelay_deepspeed.layout import places, torch_optimizer
from torchrelay_deepspeed.loss_scale import load_loss_scale, loss_scale_state
from torchrelay_deepspeed.optimizer_state import Groups, load_full_optimizer_state, relink
from torchrelay_deepspeed.shards import RECORDS
from torchrelay_deepspeed.weights import load_full_weights

State = dict[str, Any]

# What decides how tensors are cut and ordered, and so whether a rank can take up what one of the same number left.
_LAYOUT = ("zero_optimization", "bf16", "data_types")


def save_native(
    engine: Any,
    folder: str | PathLike[str],
    state: Mapping[str, Any] | None = None,
    module: nn.Module | None = None,
    groups: Groups | None = None,
) -> None:
    """Write a folder by `engine.save_checkpoint`. Collective; no rank gathers anything.

    Args:
        engine: what `deepspeed.initialize` made.
        folder: the same on every rank, in a place that all of them see.
        state: tensors and plain data to be kept with it; rank 0's is written.
        module: the user's module, where the engine got it inside another.
        groups: what `optimizer_state.group_names` gave; None where no parameter in the optimizer is frozen.
    """
    module = engine.module if module is None else module
    optimizer = torch_optimizer(engine)
    trained: list[list[str]] = [[] for _ in optimizer.param_groups] if optimizer else []
    for place in places(engine, module):
        trained[place.group].append(place.name)
    notes = {
        "prefix": _prefix(engine.module, module),
        "trained": trained,
        "groups": [list(names) for names in groups or trained],
        "loss_scale": loss_scale_state(engine),
    }
    engine.save_checkpoint(fspath(folder), client_state={**(state or {}), NOTES: notes})


def load_native(
    engine: Any,
    folder: str | PathLike[str],
    module: nn.Module | None = None,
    groups: Groups | None = None,
) -> State:
    """Take up a folder, and return the state that was kept with it. Collective.

    An engine with as many processes and the same configuration reads it by `engine.load_checkpoint`, each rank its
    own part. Any other assembles it, one parameter at a time, and takes its part of each. Nothing that the files say
    is executed.

    Args:
        engine: what `deepspeed.initialize` made; before its first step, as DeepSpeed asks at stage 3.
        folder: what `save_native`, or DeepSpeed itself, wrote.
        module: the user's module, where the engine got it inside another.
        groups: what `optimizer_state.group_names` gave; None where no parameter in the optimizer is frozen.

    Raises:
        CheckpointError: it cannot be read, or is of another model.
    """
    module = engine.module if module is None else module
    checkpoint = read_native(folder)
    if not load_own_part(engine, checkpoint["state_dict"], module):
        _load_assembled(engine, checkpoint, module, groups)
    return client_state(checkpoint["state_dict"].head)


def load_own_part(engine: Any, weights: Weights, module: nn.Module) -> bool:
    """Have each rank read what a rank of its number wrote: weights, optimizer, scheduler, counters. Collective.

    Args:
        engine: what `deepspeed.initialize` made; before its first step, as DeepSpeed asks at stage 3.
        weights: those of a folder.
        module: the user's module inside the engine's.

    Returns:
        Whether it was done. It is not, and nothing is changed, in an engine with another number of processes, another
        configuration of what decides the layout, or a model of other parameters; nor with state that was on NVMe, from
        which an engine of 0.19.8 goes on without updating.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    if was_on_nvme(weights.folder) or not _is_of_same_layout(engine, weights, module):
        return False
    folder = weights.folder.path
    try:
        with _plain_data_alone(engine):
            engine.load_checkpoint(str(folder.parent), tag=folder.name)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{folder} cannot be read by an engine of the same layout: {' '.join(str(error).split())[:200]}; resume "
            "with the model and the optimizer that it was saved from"
        ) from error
    if torch_optimizer(engine) is not None:
        relink(engine)
    return True


def _load_assembled(
    engine: Any, checkpoint: State, module: nn.Module, groups: Groups | None
) -> None:
    head = checkpoint["state_dict"].head
    load_full_weights(engine, checkpoint["state_dict"], module)
    for state in checkpoint["optimizer_states"]:
        load_full_optimizer_state(engine, state, module, groups)
    load_loss_scale(engine, head.get(NOTES, {}).get("loss_scale", {}))
    for counter in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, counter, head[counter])
    if engine.lr_scheduler is not None and head.get("lr_scheduler"):
        engine.lr_scheduler.load_state_dict(head["lr_scheduler"])


def _is_of_same_layout(engine: Any, weights: Weights, module: nn.Module) -> bool:
    head, prefix = weights.head, _prefix(engine.module, module)
    own, saved = engine.config, head.get("ds_config", {})
    shapes = {f"{prefix}{place.name}": place.shape for place in places(engine, module)}
    if weights.shapes and weights.shapes != shapes:
        return False
    same = all(_of_layout(own.get(key)) == _of_layout(saved.get(key)) for key in _LAYOUT)
    fp16 = [bool(config.get("fp16", {}).get("enabled")) for config in (own, saved)]
    return same and fp16[0] == fp16[1] and bool(engine.dp_world_size == head["dp_world_size"])


def _of_layout(section: Any) -> Any:
    """A section without the folders for NVMe, which are another for each process."""
    if not isinstance(section, Mapping):
        return section
    return {key: _of_layout(value) for key, value in section.items() if key != "nvme_path"}


def _prefix(outer: nn.Module, inner: nn.Module) -> str:
    """What stands before the inner module's names in those of the outer one."""
    name = next(name for name, module in outer.named_modules() if module is inner)
    return f"{name}." if name else ""


@contextmanager
def _plain_data_alone(engine: Any) -> Iterator[None]:
    """A block in which the engine reads files without executing what they say; by itself it would."""
    kinds: list[Any] = [
        getattr(import_module(module), kind)
        for module, _, kind in (name.rpartition(".") for name in RECORDS)
    ]

    def load(path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals(kinds):
            return torch.load(path, map_location=map_location, weights_only=True)

    reader = engine.checkpoint_engine
    reader.load = load
    try:
        yield
    finally:
        del reader.load
