"""TorchCheckpointIO: one file in torch.save's format."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchrelay.checkpoint.atomic import atomic_write
from torchrelay.checkpoint.checkpoint_io import CheckpointIO
from torchrelay.checkpoint.checkpoint_io import Path as AnyPath
from torchrelay.errors import CheckpointError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class TorchCheckpointIO(CheckpointIO):
    """One file in torch.save's format, written whole or not at all."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: AnyPath) -> None:
        """Write `checkpoint` to `path`, creating folders that are missing.

        Raises:
            CheckpointError: the place cannot be written to, the disk is full, or the checkpoint holds what
                cannot be pickled; what was at `path` before is still there.
        """
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                torch.save(dict(checkpoint), file)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint for {path} holds what cannot be saved: {_one_line(error)}; keep tensors and "
                "plain data in hyper-parameters and callback state"
            ) from error
        except (OSError, RuntimeError) as error:
            cause = _os_error_behind(error)
            if cause is None:
                raise
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {cause.strerror or cause}; nothing was changed there. "
                "Make room, or choose a folder that this process may write to"
            ) from error

    def load_checkpoint(
        self, path: AnyPath, *, map_location: Any = "cpu", weights_only: bool = True
    ) -> dict[str, Any]:
        """Read the checkpoint at `path`.

        Raises:
            CheckpointError: the file is missing, torn or none of torch's, or carries pickled code.
        """
        _check_file(Path(path))
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=weights_only)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a torn file makes torch raise almost anything
            raise _explain(Path(path), error, weights_only) from error
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
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"cannot remove the checkpoint {path}: {error.strerror}; remove it by hand"
            ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint; name the file in it")
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error.strerror}; see that the path is right"
        ) from error


def _explain(path: Path, error: Exception, weights_only: bool) -> CheckpointError:
    code = _GLOBAL.search(str(error)) if weights_only else None
    if code is None:
        return CheckpointError(
            f"cannot read the checkpoint {path} ({path.stat().st_size} bytes): it was cut off or damaged, or "
            f"is no checkpoint at all ({_reason(error)}); take another one"
        )
    found = (
        torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if zipfile.is_zipfile(path)
        else [code[1]]
    )
    return CheckpointError(
        f"the checkpoint {path} carries pickled code: {', '.join(found)}; if you trust the file, allow these "
        "by torch.serialization.add_safe_globals([...]), or load it with weights_only=False, which runs "
        "whatever it says"
    )


def _os_error_behind(error: BaseException) -> OSError | None:
    # torch's zip writer hides the failed write behind a RuntimeError of its own.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {_one_line(error).partition('. ')[0]}".rstrip(": ")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
