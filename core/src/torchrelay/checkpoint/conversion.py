"""Checkpoints made into other forms: torchrelay's own, weights alone, or safetensors."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from torchrelay.checkpoint import files, own_forms
from torchrelay.checkpoint.canonical import to_canonical
from torchrelay.checkpoint.checkpoint_io import Path as AnyPath
from torchrelay.checkpoint.inspection import Inert, load_inert
from torchrelay.checkpoint.schema import MANIFEST
from torchrelay.checkpoint.torch_io import TorchCheckpointIO
from torchrelay.errors import CheckpointError, ConfigurationError

Checkpoint = dict[str, Any]

_WEIGHTS = ("state_dict", "epoch", "global_step", "hyper_parameters", "hparams_name", MANIFEST)
"""The keys of a file of weights alone (`docs/checkpoint-format.md`)."""

# https://github.com/huggingface/safetensors: the names of the types in a file's header.
_SAFETENSORS = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def convert(source: AnyPath, target: AnyPath, form: str = "canonical") -> None:
    """Write a checkpoint in another form. Nothing that it contains is executed.

    Args:
        source: a file of torchrelay, in this form or an earlier one, or of Lightning 2.x; or what an installed
            backend writes by its own means, such as a folder.
        target: the new file.
        form: "canonical" for torchrelay's present form; "weights" for its model and hyper-parameters alone;
            "safetensors" for its model alone, in that format.

    Raises:
        ConfigurationError: there is no such form, or something is at `target` already.
        CheckpointError: the source cannot be read, or not be brought to that form.
    """
    if form not in FORMS:
        raise ConfigurationError(f"no form is called {form!r}; known: {', '.join(FORMS)}")
    if files.exists(target):
        raise ConfigurationError(
            f"{target} is there already, and is not overwritten; remove it, or name another file"
        )
    FORMS[form](source, target)


def _load(source: AnyPath) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint, and what code it carries, which was left out."""
    form = own_forms.form_of(source)
    return load_inert(source) if form is None else (own_forms.read(form, source), ())


def _to_canonical(source: AnyPath, target: AnyPath) -> None:
    checkpoint, code = _load(source)
    if code:
        raise CheckpointError(
            f"{source} carries pickled code: {', '.join(code)}; --to weights takes the model without it; to keep the "
            "rest, load it in Python with weights_only=False if you trust it, and save plain data in its place"
        )
    TorchCheckpointIO().save_checkpoint(to_canonical(checkpoint), target)


def _to_weights(source: AnyPath, target: AnyPath) -> None:
    checkpoint = _model_of(source)
    kept = {key: checkpoint[key] for key in _WEIGHTS if key in checkpoint}
    if _holds_inert(kept.get("hyper_parameters")):
        # Objects of classes that nobody has allowed were not loaded, so they cannot be kept.
        kept = {key: value for key, value in kept.items() if not key.startswith("h")}
    TorchCheckpointIO().save_checkpoint(kept, target)


def _to_safetensors(source: AnyPath, target: AnyPath) -> None:
    state: Mapping[str, Any] = _model_of(source)["state_dict"]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.dtype not in _SAFETENSORS:
            what = getattr(value, "dtype", type(value).__name__)
            raise CheckpointError(
                f"{source}: safetensors has no place for {name!r}, which is of type {what}; convert it --to weights"
            )
        end = place + value.numel() * value.element_size()
        header[name] = {
            "dtype": _SAFETENSORS[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of eight
    try:
        with files.open_to_write(target) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for value in state.values():
                file.write(_bytes_of(value))
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}; make room, or name another file"
        ) from error


def _model_of(source: AnyPath) -> Checkpoint:
    """The checkpoint in the canonical form, whose model holds tensors and plain data alone.

    Raises:
        CheckpointError: it does not.
    """
    checkpoint, code = _load(source)
    checkpoint = {
        key: value for key, value in checkpoint.items() if not _holds_inert_key(key, value)
    }
    checkpoint = to_canonical(checkpoint)
    if _holds_inert(checkpoint["state_dict"]):
        raise CheckpointError(
            f"{source}: the model itself holds objects that need code: {', '.join(code)}; load it with "
            "weights_only=False if you trust it, and save model.state_dict()"
        )
    return checkpoint


def _holds_inert_key(key: str, value: object) -> bool:
    """Whether an entry cannot be converted, and is not needed for the model."""
    return key in ("callbacks", "loops", "optimizer_states", "lr_schedulers") and _holds_inert(
        value
    )


def _holds_inert(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_inert, value.values())) or any(map(_holds_inert, value))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_inert, value))
    return isinstance(value, Inert)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    """A tensor's numbers, row by row, in the order of bytes of this machine, which is the format's (little)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size())


FORMS: Mapping[str, Callable[[AnyPath, AnyPath], None]] = MappingProxyType(
    {"canonical": _to_canonical, "weights": _to_weights, "safetensors": _to_safetensors}
)
"""What a checkpoint can be converted to."""
