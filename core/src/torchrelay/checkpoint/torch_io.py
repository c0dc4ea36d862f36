"""TorchCheckpointIO: one file in torch.save's format."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch

from torchrelay.checkpoint import files
from torchrelay.checkpoint.checkpoint_io import CheckpointIO
from torchrelay.checkpoint.checkpoint_io import Path as AnyPath
from torchrelay.errors import CheckpointError, UserError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class TorchCheckpointIO(CheckpointIO):
    """One file in torch.save's format, written whole or not at all, at a path or at a URL that fsspec knows."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: AnyPath) -> None:
        """Write `checkpoint` to `path`, creating folders that are missing.

        Raises:
            CheckpointError: the place cannot be written to, the disk is full, or the checkpoint holds what
                cannot be pickled; what was at `path` before is still there.
        """
        try:
            with files.open_to_write(path) as file:
                torch.save(dict(checkpoint), file)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise cannot_be_saved(path, error) from error
        except UserError:
            raise
        except Exception as error:
            cause = _cause_outside(path, error)
            if cause is None:
                raise
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {cause}; nothing was changed there. "
                "Make room, or choose a folder that this process may write to"
            ) from error

    def load_checkpoint(
        self, path: AnyPath, *, map_location: Any = "cpu", weights_only: bool = True
    ) -> dict[str, Any]:
        """Read the checkpoint at `path`.

        Raises:
            CheckpointError: the file is missing, torn or none of torch's, or carries pickled code.
        """
        with _opened(path) as file:
            try:
                checkpoint = torch.load(file, map_location=map_location, weights_only=weights_only)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a torn file makes torch raise almost anything
                raise _explain(path, file, error, weights_only) from error
        if not isinstance(checkpoint, dict):
            raise CheckpointError(
                f"{path} holds a {type(checkpoint).__name__}, not a checkpoint; a checkpoint is a dict "
                "with a 'state_dict'"
            )
        return checkpoint

    def remove_checkpoint(self, path: AnyPath) -> None:
        """Remove the file at `path` if it is there.

        Raises:
            CheckpointError: it cannot be removed, or is a folder.
        """
        try:
            files.remove(path)
        except OSError as error:
            raise CheckpointError(
                f"cannot remove the checkpoint {path}: {_reason_of(error)}; remove it by hand"
            ) from error


def cannot_be_saved(path: AnyPath, error: Exception) -> CheckpointError:
    """The error for a checkpoint that cannot be pickled."""
    return CheckpointError(
        f"the checkpoint for {path} holds what cannot be saved: {_one_line(error)}; keep tensors and "
        "plain data in hyper-parameters and callback state"
    )


@contextmanager
def _opened(path: AnyPath) -> Iterator[BinaryIO]:
    try:
        if files.is_folder(path):
            raise CheckpointError(f"{path} is a folder, not a checkpoint; name the file in it")
        file = files.open_to_read(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {_reason_of(error)}; see that the path is right"
        ) from error
    with file as opened:
        yield opened


def _explain(
    path: AnyPath, file: BinaryIO, error: Exception, weights_only: bool
) -> CheckpointError:
    found = _unsafe_globals(file, error) if weights_only else []
    if not found:
        return CheckpointError(
            f"cannot read the checkpoint {path} ({file.seek(0, os.SEEK_END)} bytes): it was cut off or damaged, or "
            f"is no checkpoint at all ({_reason(error)}); take another one"
        )
    modules = ", ".join(sorted({name.rpartition(".")[0] for name in found}))
    return CheckpointError(
        f"the checkpoint {path} carries pickled code: {', '.join(found)}; if you trust the file, allow it before "
        f"you load: import {modules}; torch.serialization.add_safe_globals([{', '.join(found)}]); or load it with "
        "weights_only=False, which runs whatever it says"
    )


def _unsafe_globals(file: BinaryIO, error: Exception) -> list[str]:
    """Every class and function that the file names and `weights_only=True` does not allow."""
    first = _GLOBAL.search(str(error))
    file.seek(0)
    if not zipfile.is_zipfile(file):
        return (
            [first[1]] if first else []
        )  # before torch 1.6; torch can list those of zip files alone
    file.seek(0)
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
        return []  # a damaged file, as `error` says already


def _cause_outside(path: AnyPath, error: Exception) -> str | None:
    """What the disk or the other side said; None for a mistake of the program's own."""
    # torch's zip writer hides the failed write behind a RuntimeError of its own.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return _reason_of(cause)
    # Each file system of fsspec has errors of its own.
    return _reason(error) if files.is_remote(path) else None


def _reason_of(error: OSError) -> str:
    return error.strerror or _one_line(error)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {_one_line(error).partition('. ')[0]}".rstrip(": ")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
