"""The size of a batch: what an epoch's mean is weighted by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch


def batch_size_of(batch: Any) -> int:
    """Length of the first dimension of the first tensor in a batch; 1 if there is none."""
    found = _find(batch)
    return 1 if found is None else found


def _find(batch: Any) -> int | None:
    if isinstance(batch, torch.Tensor):
        return batch.size(0) if batch.dim() else 1
    return next((size for size in map(_find, _parts(batch)) if size is not None), None)


def _parts(batch: Any) -> Iterable[Any]:
    if isinstance(batch, Mapping):
        return batch.values()
    if isinstance(batch, (list, tuple)):
        return batch
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return (getattr(batch, field.name) for field in dataclasses.fields(batch))
    return ()
