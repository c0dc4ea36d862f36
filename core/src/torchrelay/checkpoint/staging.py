"""Copies of checkpoints that training can no longer change, made quickly and in the same memory each time."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import torch

_ALIGNMENT = 64
"""Bytes; torch aligns its own memory so."""

_SPARE = 2
"""How many times larger than needed kept memory may be."""

Key = tuple[torch.device, int, int]
"""Device, address and size of a storage."""


class Staging:
    """Makes private copies of checkpoints on the CPU; each takes the memory of the one before.

    A checkpoint is pickled and unpickled, which copies what a file would hold and nothing else, with its tensors
    set aside and their storages copied whole: tensors that share memory share it in the copy. The memory is one
    block, which is kept, because touching memory for the first time takes several times as long as copying into
    it. For tensors on a CUDA device it is pinned, so that copies go at the speed of the bus.
    """

    def __init__(self) -> None:
        self._block: torch.Tensor | None = None
        self._pinned = False

    def copy(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Copy a checkpoint. The copy before it, if there is one, is overwritten.

        Raises:
            PicklingError, TypeError, AttributeError: it holds what cannot be pickled.
        """
        file = io.BytesIO()
        pickler = _SettingAside(file, pickle.HIGHEST_PROTOCOL)
        pickler.dump(dict(checkpoint))
        file.seek(0)
        storages = self._copy_storages(_storage_of(each) for each in pickler.aside)
        copies = [_rebuild(each, storages[_key(_storage_of(each))]) for each in pickler.aside]
        copied: dict[str, Any] = _PuttingBack(file, copies).load()
        return copied

    def release(self) -> None:
        """Give the memory back when the last copy is gone."""
        self._block = None

    def _copy_storages(
        self, storages: Iterable[torch.UntypedStorage]
    ) -> dict[Key, torch.UntypedStorage]:
        """Copy each storage once."""
        originals = {_key(storage): storage for storage in storages}
        size = sum(_padded(storage.nbytes()) for storage in originals.values())
        devices = {s.device for s in originals.values() if s.device.type == "cuda"}
        block = self._block_of(size, pinned=bool(devices)).untyped_storage()
        copies, start = {}, 0
        for key, storage in originals.items():
            copies[key] = block[start : start + storage.nbytes()]
            _bytes_of(copies[key]).copy_(_bytes_of(storage), non_blocking=True)
            start += _padded(storage.nbytes())
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def _block_of(self, size: int, *, pinned: bool) -> torch.Tensor:
        block = self._block
        fits = block is not None and size <= block.nbytes <= _SPARE * size
        if block is None or not fits or pinned is not self._pinned:
            block = self._block = None  # before the next is taken: both may be more than there is
            block = self._block = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
            self._pinned = pinned
        return block


class _SettingAside(pickle.Pickler):
    """Pickles everything but plain tensors and storages, which it lists; the rest pickle knows how to copy."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.aside: list[Any] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, (torch.Tensor, torch.UntypedStorage)) or not _is_plain(value):
            return None
        place = self._places.setdefault(id(value), len(self.aside))
        if place == len(self.aside):
            self.aside.append(value)
        return place


class _PuttingBack(pickle.Unpickler):
    """Unpickles with the copies of what was set aside."""

    def __init__(self, file: io.BytesIO, copies: list[Any]) -> None:
        super().__init__(file)
        self._copies = copies

    def persistent_load(self, pid: Any) -> Any:
        return self._copies[pid]


def _is_plain(value: torch.Tensor | torch.UntypedStorage) -> bool:
    """Whether a value is nothing but a view of memory that can be copied."""
    if isinstance(value, torch.UntypedStorage):
        return value.data_ptr() != 0
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_conj() or value.is_neg() or value.is_meta)
        and not vars(value)
        and value.untyped_storage().data_ptr() != 0
    )


def _key(storage: torch.UntypedStorage) -> Key:
    # Memory that NumPy lends can begin several storages of different lengths.
    return storage.device, storage.data_ptr(), storage.nbytes()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _storage_of(value: torch.Tensor | torch.UntypedStorage) -> torch.UntypedStorage:
    return value.untyped_storage() if isinstance(value, torch.Tensor) else value


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _rebuild(value: torch.Tensor | torch.UntypedStorage, storage: torch.UntypedStorage) -> Any:
    if isinstance(value, torch.UntypedStorage):
        return storage
    copied = torch.empty(0, dtype=value.dtype)
    copied.set_(storage, value.storage_offset(), value.size(), value.stride())
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(copied, value.requires_grad)
    return copied.requires_grad_(value.requires_grad)
