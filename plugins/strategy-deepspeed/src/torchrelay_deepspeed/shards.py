"""Reads a DeepSpeed checkpoint without an engine or a process group, and assembles what its shards hold.

Every parameter is put together when it is asked for, from files that stay on the disk: no more than one of them
has to be in memory. Nothing that the files say is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch

from torchrelay.errors import CheckpointError
from torchrelay_deepspeed.folder import NativeFolder

State = dict[str, Any]
Names = list[list[str]]


class Record:
    """Stands for an object of DeepSpeed's in a file: has its attributes, and none of its behaviour."""

    def __new__(cls, *_: Any) -> Record:
        """Take any arguments."""
        return super().__new__(cls)


def load_plain(path: Path) -> State:
    """Load a file of DeepSpeed's; its tensors stay on the disk until they are looked at.

    Raises:
        CheckpointError: it cannot be read, or carries code beyond the few classes that DeepSpeed's own files have.
    """
    kinds: list[Any] = [(type(name, (Record,), {}), name) for name in RECORDS]
    try:
        with torch.serialization.safe_globals(kinds):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a torn file makes torch raise almost anything
        raise CheckpointError(
            f"{path} cannot be read as a DeepSpeed checkpoint: {' '.join(str(error).split())[:200]}; if it holds "
            "objects of your own, load it with DeepSpeed, and save plain data"
        ) from error
    return dict(loaded)


RECORDS = (
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
"""The classes that files of stages 1 to 3 name."""


@dataclass(frozen=True)
class Piece:
    """Some elements of a parameter: which rank has them, in which of its flat tensors, from where on, how many."""

    rank: int
    flat: int
    start: int
    numel: int


@dataclass(frozen=True)
class Parameter:
    """A trained parameter: its shape, the index of its group, and where its elements are, in their order."""

    shape: torch.Size
    group: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Shards:
    """What all ranks have saved of the parameters that were trained.

    Attributes:
        parameters: by the engine's names, in the order of their groups.
        masters: of each rank, its flat fp32 tensors; empty where the model's own are the masters.
        states: of each rank, what the optimizer keeps for each of its flat tensors.
        options: of each group.
    """

    parameters: dict[str, Parameter] = field(default_factory=dict)
    masters: list[list[torch.Tensor]] = field(default_factory=list)
    states: list[list[State]] = field(default_factory=list)
    options: list[State] = field(default_factory=list)

    def master(self, name: str) -> torch.Tensor:
        """A parameter's fp32 weights."""
        return self._assemble(name, lambda piece: self.masters[piece.rank][piece.flat])

    def keys(self, name: str) -> list[str]:
        """What the optimizer keeps for a parameter."""
        first = self.parameters[name].pieces[0]
        return list(self.states[first.rank][first.flat])

    def state(self, name: str, key: str) -> Any:
        """One of the things that the optimizer keeps for a parameter."""
        first = self.parameters[name].pieces[0]
        value = self.states[first.rank][first.flat][key]
        if not isinstance(value, torch.Tensor):
            # DeepSpeed's own optimizers count in a number what torch's have in a tensor.
            return torch.tensor(float(value)) if key == "step" else value
        if value.dim() == 0:
            return value.clone()
        return self._assemble(name, lambda piece: self.states[piece.rank][piece.flat][key])

    def _assemble(self, name: str, flat: Callable[[Piece], torch.Tensor]) -> torch.Tensor:
        found = self.parameters[name]
        parts = [
            flat(each).detach().reshape(-1).narrow(0, each.start, each.numel)
            for each in found.pieces
        ]
        return torch.cat(parts).reshape(found.shape)


class Lazy(Mapping[str, Any]):
    """Values that are made when they are asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers

    def __getitem__(self, key: str) -> Any:
        return self._makers[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, key: object) -> bool:
        return key in self._makers  # without making the value

    def made(self) -> State:
        """All values; keys that have one maker have one value, as tied weights do."""
        values = {maker: maker() for maker in self._makers.values()}
        return {key: values[maker] for key, maker in self._makers.items()}


def read_shards(folder: NativeFolder, heads: list[State], groups: Names, trained: Names) -> Shards:
    """Find every trained parameter in the files of all ranks.

    Args:
        folder: the files.
        heads: what the model's files hold.
        groups: names in the optimizer by group, which files of stage 0 do not have.
        trained: those that are not frozen.

    Raises:
        CheckpointError: they are of a kind of engine that torchrelay does not know.
    """
    if not folder.optimizer:
        return _of_stage_0(heads[0], groups, trained)
    ranks = [load_plain(path)["optimizer_state_dict"] for path in folder.optimizer]
    try:
        return _of_stage_3(ranks, heads) if folder.sharded_parameters else _of_flat(ranks, heads)
    except (KeyError, IndexError, TypeError) as error:
        raise CheckpointError(
            f"{folder.path} has another layout than DeepSpeed 0.19 writes for stages 1 to 3 ({error!r}); load it "
            "with the DeepSpeed that wrote it, and save it again"
        ) from error


def _of_flat(ranks: list[State], heads: list[State]) -> Shards:
    """Stages 1 and 2: a group is flattened, in the order that the shapes have, and cut into equal parts.

    The `param_slice_mappings` that the files have too are wrong with `round_robin_gradients`.
    """
    parameters = {}
    masters = [state["single_partition_of_fp32_groups"] for state in ranks]
    for group, shapes in enumerate(heads[0]["param_shapes"]):
        # Padding at the end is not saved, so that the part of the last ranks may be shorter.
        size = max(each[group].numel() for each in masters)
        paddings = ranks[0].get("param_alignment_paddings", {group: [0] * len(shapes)})[group]
        start = 0
        for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
            end = start + torch.Size(shape).numel()
            pieces = [
                Piece(
                    rank, group, max(0, start - begin), min(end, begin + size) - max(start, begin)
                )
                for rank in range(len(ranks))
                if max(start, begin := rank * size) < min(end, begin + size)
            ]
            parameters[name] = Parameter(torch.Size(shape), group, tuple(pieces))
            start = end + padding
    bases = [state["base_optimizer_state"] for state in ranks]
    options = bases[0]["param_groups"]
    return Shards(
        parameters,
        masters,
        [[base["state"].get(group, {}) for group in range(len(options))] for base in bases],
        options,
    )


def _of_stage_3(ranks: list[State], heads: list[State]) -> Shards:
    """Stage 3: each parameter is cut into equal parts, the last of them padded; flat tensors hold some parameters."""
    if any("ds_zero_partition_groups" in state for state in ranks):
        raise CheckpointError(
            "the checkpoint is of a model with experts, whose parts torchrelay does not read; load it into an engine "
            "of the same shape"
        )
    bases = [state["optimizer_state_dict"] for state in ranks]
    options = bases[0]["param_groups"]
    group_of = {flat: group for group, each in enumerate(options) for flat in each["params"]}
    parameters = {}
    for flat, shapes in enumerate(heads[0]["param_shapes"]):
        start = 0
        for name, shape in shapes.items():
            pieces, size = equal_parts(torch.Size(shape).numel(), len(ranks), flat, start)
            parameters[name] = Parameter(torch.Size(shape), group_of[flat], pieces)
            start += size
    return Shards(
        parameters,
        [state["fp32_flat_groups"] for state in ranks],
        [[base["state"].get(flat, {}) for flat in range(len(group_of))] for base in bases],
        options,
    )


def equal_parts(numel: int, ranks: int, flat: int, start: int) -> tuple[tuple[Piece, ...], int]:
    """How stage 3 cuts a parameter, and the size of each part, with the padding of the last."""
    size = ceil(numel / ranks)
    pieces = [
        Piece(rank, flat, start, min(size, numel - rank * size))
        for rank in range(ranks)
        if rank * size < numel
    ]
    return tuple(pieces), size


def _of_stage_0(head: State, groups: Names, trained: Names) -> Shards:
    """Stage 0: every rank had all, and one has saved it; in 16 bits, with fp32 masters."""
    saved = head.get("optimizer")
    if not saved or not trained:
        return Shards()
    base = saved.get("optimizer_state_dict", saved)
    options, shapes = base["param_groups"], head["module"]
    if "fp32_groups_flat" in saved:
        return Shards(
            _side_by_side(trained, shapes),
            [saved["fp32_groups_flat"]],
            [[base["state"].get(group, {}) for group in range(len(options))]],
            options,
        )
    names = [name for group in trained for name in group]
    copies = [master for group in saved.get("fp32_groups", ()) for master in group]
    # In fp32 the optimizer has the model's own parameters, and numbers frozen ones too.
    members = trained if copies else groups
    number_of = {
        name: number
        for group, each in zip(members, options, strict=True)
        for name, number in zip(group, each["params"], strict=True)
    }
    group_of = {name: index for index, group in enumerate(trained) for name in group}
    return Shards(
        {
            name: Parameter(
                shapes[name].shape, group_of[name], (Piece(0, flat, 0, shapes[name].numel()),)
            )
            for flat, name in enumerate(names)
        },
        [copies or [shapes[name] for name in names]],
        [[base["state"].get(number_of[name], {}) for name in names]],
        options,
    )


def _side_by_side(trained: Names, shapes: State) -> dict[str, Parameter]:
    """Where parameters are in flat tensors of whole groups."""
    parameters = {}
    for group, names in enumerate(trained):
        start = 0
        for name in names:
            shape = shapes[name].shape
            parameters[name] = Parameter(shape, group, (Piece(0, group, start, shape.numel()),))
            start += shape.numel()
    return parameters
