"""A DeepSpeed checkpoint in the canonical form, without an engine, a process group, or DeepSpeed itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from typing import Any

import torch

from torchrelay.errors import CheckpointError
from torchrelay_deepspeed.folder import NativeFolder, native_folder
from torchrelay_deepspeed.shards import (
    Lazy,
    Names,
    Shards,
    State,
    equal_parts,
    load_plain,
    read_shards,
)

NOTES = "torchrelay_deepspeed"
"""The key under which torchrelay notes, in DeepSpeed's own files, what these do not say (`native.save_native`)."""

_OWN_OPTIONS = ("params", "param_names", "_ds_source_param_group_id")
_DEEPSPEEDS = frozenset(
    (
        "module",
        "buffer_names",
        "optimizer",
        "param_shapes",
        "frozen_param_shapes",
        "shared_params",
        "frozen_param_fragments",
        "lr_scheduler",
        "data_sampler",
        "random_ltd",
        "sparse_tensor_module_names",
        "skipped_steps",
        "global_steps",
        "global_samples",
        "dp_world_size",
        "mp_world_size",
        "checkpoint_parallel_dimensions",
        "ds_config",
        "ds_version",
        "universal_checkpoint_info",
    )
)
"""The keys of a model's file that are DeepSpeed's own."""


def read(source: str | PathLike[str]) -> State:
    """A DeepSpeed checkpoint in the canonical form, whole in memory. Nothing that it says is executed.

    Args:
        source: the folder that `save_checkpoint` was given, or the one in it.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint = read_native(source)
    whole = checkpoint["state_dict"].made()
    states = [
        {**state, "state": {name: dict(entry) for name, entry in state["state"].items()}}
        for state in checkpoint["optimizer_states"]
    ]
    return {**checkpoint, "state_dict": whole, "optimizer_states": states}


class Weights(Lazy):
    """The weights of a folder by name, which an engine of the same layout need not assemble.

    Attributes:
        folder: the files.
        shapes: of the trained parameters, by the engine's names; empty where the files do not tell them.
        head: what rank 0's file of the model holds.
    """

    def __init__(
        self,
        makers: Mapping[str, Callable[[], Any]],
        folder: NativeFolder,
        shapes: Mapping[str, torch.Size],
        head: State,
    ) -> None:
        super().__init__(makers)
        self.folder, self.shapes, self.head = folder, shapes, head


def read_native(path: str | PathLike[str]) -> State:
    """A DeepSpeed checkpoint in the canonical form. Tensors are assembled when they are asked for, one at a time.

    What was given to `save_checkpoint` as `client_state` is there by its own keys. Of stage 0 only folders that
    torchrelay wrote say which parameter an optimizer's state is of; others keep the numbers.

    Raises:
        CheckpointError: it cannot be read; for a tensor that NVMe held, when it is asked for.
    """
    folder = native_folder(path)
    heads = [load_plain(each) for each in folder.model]
    if was_on_nvme(folder):
        return _as_nvme_held_it(folder, heads[0])
    notes = heads[0].get(NOTES, {})
    prefix = notes.get("prefix", "")
    trained = _prefixed(notes.get("trained", []), prefix)
    members = _prefixed(notes.get("groups", []), prefix)
    shards = read_shards(folder, heads, members, trained)
    found: State = {
        "state_dict": _weights(folder, heads, shards, prefix),
        "optimizer_states": _optimizer_states(heads[0], shards, members, prefix),
        "lr_schedulers": [each] if (each := heads[0].get("lr_scheduler")) else [],
        "epoch": 0,
        "global_step": heads[0]["global_steps"],
    }
    return {**found, **client_state(heads[0])}


def was_on_nvme(folder: NativeFolder) -> bool:
    """Whether the optimizer's state is in it as files of NVMe, in no form that is known."""
    return (folder.path / "offloaded_tensors").exists()


def _as_nvme_held_it(folder: NativeFolder, head: State) -> State:
    prefix = head.get(NOTES, {}).get("prefix", "")
    refused = partial(_refuse_nvme, folder)
    makers = dict.fromkeys((name.removeprefix(prefix) for name in head["module"]), refused)
    counts = {"epoch": 0, "global_step": head["global_steps"], "lr_schedulers": []}
    weights = Weights(makers, folder, {}, head)
    return {"state_dict": weights, "optimizer_states": [{}], **counts, **client_state(head)}


def _refuse_nvme(folder: NativeFolder) -> Any:
    raise CheckpointError(
        f"{folder.path} has the optimizer's state as NVMe held it, from which DeepSpeed 0.19.8 goes on without ever "
        "updating a weight, and does not say so; save checkpoints that are not sharded"
    )


def client_state(head: Mapping[str, Any]) -> State:
    """What a model's file holds beside what is DeepSpeed's and torchrelay's notes."""
    return {key: value for key, value in head.items() if key not in _DEEPSPEEDS and key != NOTES}


def _weights(folder: NativeFolder, heads: list[State], shards: Shards, prefix: str) -> Weights:
    head = heads[0]
    aliases = head.get("shared_params") or _tied(head["module"])
    frozen = head.get("frozen_param_shapes") or {} if folder.sharded_parameters else {}
    makers: dict[str, Callable[[], Any]] = {}
    for name, value in head["module"].items():
        source = aliases.get(name, name)
        if source in shards.parameters:
            makers[source] = makers.get(source) or partial(shards.master, source)
        elif source in frozen:
            makers[source] = makers.get(source) or partial(_frozen, heads, source)
        makers[name] = makers.get(source) or partial(_in_fp32, value)
    short = [name for name, value in head["module"].items() if _is_short(value)]
    if short and not shards.parameters and head.get("optimizer"):
        warnings.warn(
            f"{folder.path} does not say whose its fp32 weights are, as DeepSpeed wrote it at stage 0; those in "
            "16 bits are taken. Folders that torchrelay writes say it",
            stacklevel=3,
        )
    shapes = {name: each.shape for name, each in shards.parameters.items()}
    by_name = {name.removeprefix(prefix): makers[name] for name in head["module"]}
    return Weights(by_name, folder, shapes, head)


def _tied(module: State) -> dict[str, str]:
    """Names of a tensor that has another name already, in files of stage 0, which keep them as one."""
    first: dict[tuple[int, torch.Size], str] = {}
    tied = {}
    for name, value in module.items():
        if isinstance(value, torch.Tensor) and value.numel():
            known = first.setdefault((value.data_ptr(), value.shape), name)
            if known != name:
                tied[name] = known
    return tied


def _frozen(heads: list[State], name: str) -> torch.Tensor:
    shape = torch.Size(heads[0]["frozen_param_shapes"][name])
    pieces, _ = equal_parts(shape.numel(), len(heads), 0, 0)
    parts = [heads[each.rank]["frozen_param_fragments"][name][: each.numel] for each in pieces]
    whole: torch.Tensor = _in_fp32(torch.cat(parts).reshape(shape))
    return whole


def _in_fp32(value: Any) -> Any:
    value = value.detach() if isinstance(value, torch.Tensor) else value
    return value.float() if _is_short(value) else value


def _is_short(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)


def _optimizer_states(head: State, shards: Shards, members: Names, prefix: str) -> list[State]:
    if not shards.parameters:
        saved = head.get("optimizer") or {}
        base = saved.get("optimizer_state_dict", saved)
        return [base] if base else []
    members = members or [
        [name for name, each in shards.parameters.items() if each.group == group]
        for group in range(len(shards.options))
    ]
    return [
        {
            "state": {
                name.removeprefix(prefix): Lazy(
                    {key: partial(shards.state, name, key) for key in shards.keys(name)}
                )
                for name in shards.parameters
                if shards.keys(name)
            },
            "param_groups": [
                {
                    **{key: value for key, value in group.items() if key not in _OWN_OPTIONS},
                    "params": [name.removeprefix(prefix) for name in names],
                }
                for names, group in zip(members, shards.options, strict=True)
            ],
        }
    ]


def _prefixed(groups: Names, prefix: str) -> Names:
    return [[f"{prefix}{name}" for name in names] for names in groups]
