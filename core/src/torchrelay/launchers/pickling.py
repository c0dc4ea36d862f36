"""Objects sent from one process to another by value, and the name of what cannot be sent."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from torchrelay.errors import LaunchError

_DEPTH = 8


def save(value: object, path: Path, advice: str, what: str = "") -> None:
    """Write an object to a file.

    Tensors are copied, those that share memory share it in the copy too; torch.multiprocessing's own pickling
    would leave all processes to work on the same memory.

    Args:
        value: any object that can be pickled.
        path: the file.
        advice: what to do if it cannot be pickled.
        what: the object's name, for the message; without one its parts are named by themselves.

    Raises:
        LaunchError: it cannot be pickled; names the innermost part at fault.
    """
    try:
        _dump(value, path)
    except Exception as error:
        where, part = _culprit(value, what)
        raise LaunchError(
            f"{where.lstrip('.')}, a {_kind(part)}, cannot be sent to another process ({error}); {advice}"
        ) from error


def load(path: Path, device: str | None = None) -> Any:
    """Read what `save` wrote.

    Args:
        path: the file.
        device: where to put tensors; where they were when None.
    """
    # Written a moment ago by a process of this run, into a folder of the user's alone.
    return torch.load(path, map_location=device, weights_only=False)


def _dump(value: object, file: Path | io.BytesIO) -> None:
    torch.save(value, file, pickle_protocol=pickle.DEFAULT_PROTOCOL)


def _culprit(value: object, name: str) -> tuple[str, object]:
    for _ in range(_DEPTH):
        bad = next(((n, v) for n, v in _parts(value, name) if not _can_be_pickled(v)), None)
        if bad is None:
            break
        name, value = bad
    return name, value


def _parts(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
    elif hasattr(value, "__self__"):
        yield f"{name}.__self__", value.__self__
    else:
        yield from ((f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items())


def _can_be_pickled(value: object) -> bool:
    try:
        _dump(value, io.BytesIO())
    except Exception:  # noqa: BLE001 - that it fails is the answer
        return False
    return True


def _kind(value: object) -> str:
    name = getattr(value, "__qualname__", "")
    kind = type(value).__qualname__
    return f"{kind} {name!r}" if name else kind
