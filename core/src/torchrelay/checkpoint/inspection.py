"""What a checkpoint holds, told without running anything that it says and without reading its tensors."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from torchrelay.checkpoint import files, lightning, own_forms
from torchrelay.checkpoint.checkpoint_io import Path as AnyPath
from torchrelay.checkpoint.schema import MANIFEST
from torchrelay.checkpoint.torch_io import TorchCheckpointIO
from torchrelay.errors import CheckpointError

UNREADABLE = "unreadable without the code below"
"""The kind of a file that names code which not even `Inert` can stand for, such as that of `os`."""

_TEXT = 120  # characters of a value that are shown


class Inert:
    """Stands for an object of a class that the file names and nobody has allowed; holds nothing, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Take any state, and forget it."""

    def __repr__(self) -> str:
        return "<not loaded>"


@dataclass(frozen=True)
class TensorFacts:
    """A tensor: its name, its shape, its type, and what it takes in memory (bytes)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int


@dataclass(frozen=True)
class OptimizerFacts:
    """An optimizer's state.

    Attributes:
        groups: numbers of parameters in its groups.
        by_name: whether parameters are named; numbered otherwise.
        kept: what it keeps for a parameter, such as `exp_avg`.
        options: of its first group.
        size: of its tensors, in bytes.
    """

    groups: tuple[int, ...]
    by_name: bool
    kept: tuple[str, ...]
    options: dict[str, str]
    size: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a checkpoint.

    Attributes:
        path: as given.
        kind: "torchrelay", "Lightning", "a dict", "a folder", "a folder in the form " and a backend's, or `UNREADABLE`.
        size: of the file, or of all files of the folder, in bytes.
        manifest: what torchrelay, or Lightning, noted about the writing.
        progress: epoch, step and the like.
        tensors: those of the model.
        optimizers: each optimizer.
        callbacks: what each callback keeps, by its key.
        hyper_parameters: by name, as text.
        other: keys that are none of these, each with what is there.
        code: classes and functions that loading the file would need, beyond tensors and plain data.
        files: path -> size, of a folder.
    """

    path: str
    kind: str
    size: int
    manifest: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[TensorFacts, ...] = ()
    optimizers: tuple[OptimizerFacts, ...] = ()
    callbacks: dict[str, str] = field(default_factory=dict)
    hyper_parameters: dict[str, str] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    files: dict[str, int] = field(default_factory=dict)


def inspect(path: AnyPath) -> Facts:
    """Look into a checkpoint. Nothing that it contains is executed.

    Args:
        path: a file in torch.save's format, or a folder of shards, whose files are only listed.

    Raises:
        CheckpointError: there is nothing, or it is damaged or none of torch's.
    """
    if files.is_folder(path):
        return folder_facts(path)
    code = unsafe_globals(path)
    try:
        checkpoint, _ = load_inert(path)
    except CheckpointError:
        if not code:
            raise
        return Facts(path=os.fspath(path), kind=UNREADABLE, size=_size_of_file(path), code=code)
    return checkpoint_facts(checkpoint, path, code)


def load_inert(path: AnyPath) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Load a checkpoint with `Inert` in the place of every object that would need code, and the names of that code.

    A local file's tensors stay on the disk until they are looked at.

    Raises:
        CheckpointError: it cannot be read.
    """
    code = unsafe_globals(path)
    stand_ins: list[Any] = [(type(name, (Inert,), {}), name) for name in code]
    with torch.serialization.safe_globals(stand_ins):
        try:
            return _load(path), code
        except CheckpointError as error:
            if not code:
                raise
            raise CheckpointError(
                f"{path} cannot be looked into without running the code that it carries: {', '.join(code)}; load it "
                "with weights_only=False only if you trust whoever wrote it"
            ) from error


def unsafe_globals(path: AnyPath) -> tuple[str, ...]:
    """Classes and functions that the file names and `weights_only=True` does not allow; read, not imported."""
    try:
        with files.open_to_read(path) as file:
            if not zipfile.is_zipfile(
                file
            ):  # before torch 1.6: torch lists those of zip files alone
                return ()
            file.seek(0)
            return tuple(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
        return ()  # loading it says what is wrong


def checkpoint_facts(checkpoint: Mapping[str, Any], path: AnyPath, code: tuple[str, ...]) -> Facts:
    """What is known of a checkpoint that was loaded."""
    manifest = checkpoint.get(MANIFEST)
    kind = "torchrelay" if isinstance(manifest, Mapping) else "a dict"
    if lightning.is_lightning(checkpoint):
        kind, manifest = "Lightning", {"lightning": str(checkpoint[lightning.VERSION])}
    state = checkpoint.get("state_dict", checkpoint if kind == "a dict" else {})
    known = {*_KNOWN, MANIFEST, lightning.VERSION}
    rest = (
        {k: v for k, v in checkpoint.items() if k not in known} if state is not checkpoint else {}
    )
    return Facts(
        path=os.fspath(path),
        kind=kind,
        size=_size_of_file(path),
        manifest=dict(manifest) if isinstance(manifest, Mapping) else {},
        progress={k: checkpoint[k] for k in ("epoch", "global_step") if k in checkpoint},
        tensors=tuple(_tensors(state)),
        optimizers=tuple(map(_optimizer, _dicts(checkpoint.get("optimizer_states")))),
        callbacks=_texts(checkpoint.get("callbacks")),
        hyper_parameters=_texts(checkpoint.get("hyper_parameters")),
        other=_texts(rest),
        code=code,
    )


def folder_facts(path: AnyPath) -> Facts:
    """What is known of a folder: its files and their sizes. None is opened: indices of shards are pickles too."""
    if files.is_remote(path):
        found = dict.fromkeys(files.list_folder(path), 0)
    else:
        top = os.fspath(path)
        found = {
            os.path.relpath(os.path.join(folder, name), top): os.path.getsize(
                os.path.join(folder, name)
            )
            for folder, _, names in os.walk(top)
            for name in sorted(names)
        }
    form = own_forms.form_of(path)
    kind = "a folder" if form is None else f"a folder in the form {form.spec.name}"
    return Facts(path=os.fspath(path), kind=kind, size=sum(found.values()), files=found)


_KNOWN = ("state_dict", "optimizer_states", "epoch", "global_step", "callbacks", "hyper_parameters")


def _load(path: AnyPath) -> dict[str, Any]:
    local = None if files.is_remote(path) else files.absolute(path)
    if local is not None and zipfile.is_zipfile(local):
        try:
            loaded = torch.load(local, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, pickle.UnpicklingError, ValueError, EOFError):
            loaded = None  # as below, which explains what is wrong with it
        if isinstance(loaded, dict):
            return loaded
    return TorchCheckpointIO().load_checkpoint(path, weights_only=True)


def _tensors(state: object, prefix: str = "") -> Iterator[TensorFacts]:
    if isinstance(state, torch.Tensor):
        size = state.numel() * state.element_size()
        dtype = str(state.dtype).removeprefix("torch.")
        yield TensorFacts(prefix, tuple(state.shape), dtype, size)
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from _tensors(value, f"{prefix}[{index}]")


def _optimizer(state: Mapping[str, Any]) -> OptimizerFacts:
    groups = _dicts(state.get("param_groups"))
    names = [name for group in groups for name in group.get("params", ())]
    entries = list(_dicts(list(dict(state.get("state") or {}).values())))
    options = {k: v for k, v in (groups[0] if groups else {}).items() if k != "params"}
    return OptimizerFacts(
        groups=tuple(len(group.get("params", ())) for group in groups),
        by_name=any(isinstance(name, str) for name in names),
        kept=tuple(dict.fromkeys(str(key) for entry in entries for key in entry)),
        options=_texts(options),
        size=sum(each.size for each in _tensors(entries)),
    )


def _dicts(values: object) -> list[Mapping[str, Any]]:
    return [v for v in values if isinstance(v, Mapping)] if isinstance(values, list) else []


def _texts(values: object) -> dict[str, str]:
    """What a dict holds, each as a short line; tensors by their shapes."""
    if not isinstance(values, Mapping):
        return {} if values is None else {"": _text(values)}
    return {str(key): _text(value) for key, value in values.items()}


def _text(value: object) -> str:
    if isinstance(value, torch.Tensor):
        shape = "x".join(map(str, value.shape))
        if value.numel() == 1:
            return str(value.item())
        return f"tensor {shape} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
        text = f"{{{text}}}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(_text, value))}]"
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."


def _size_of_file(path: AnyPath) -> int:
    with files.open_to_read(path) as file:
        return file.seek(0, os.SEEK_END)
