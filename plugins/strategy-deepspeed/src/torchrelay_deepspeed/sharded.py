"""Checkpoints that are folders to which each rank adds its part, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from torchrelay.checkpoint import files, replace_folder
from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.collectives import Collectives
from torchrelay.errors import CheckpointError

OWN_WRITER = (
    "sharded_checkpoints=True has DeepSpeed write checkpoints, and the checkpoint_io that is given beside it would not "
    "be used; leave one of them out"
)

NOT_FROM_NVME = (
    "sharded_checkpoints=True with state on NVMe: DeepSpeed 0.19.8 goes on from such a folder without ever updating a "
    "weight, and does not say so; leave sharded_checkpoints out"
)

NO_AVERAGES = (
    "a folder that DeepSpeed writes has no place for other weights; leave sharded_checkpoints out"
)


def save(
    write: Callable[[str, Mapping[str, Any]], None],
    state: Mapping[str, Any],
    path: Path,
    collectives: Collectives,
) -> None:
    """Have all ranks write a folder, which has its name when all of them are done. Collective.

    Args:
        write: writes this rank's part; takes the folder, which all ranks see, and rank 0's `state`.
        state: tensors and plain data to be kept with it.
        path: of the folder; what is there is replaced.

    Raises:
        CheckpointError: it cannot be written; what was there is still there.
    """
    if files.is_remote(path):
        raise CheckpointError(
            f"sharded_checkpoints=True cannot write to {os.fspath(path)}: DeepSpeed writes to folders that all "
            "machines see; name one, or leave sharded_checkpoints out"
        )
    # Beside what a link names, which may be on another file system than the link.
    target = os.path.realpath(files.absolute(path))
    parent, name = os.path.split(target)
    partial = collectives.broadcast(os.path.join(parent, f".{name}.{secrets.token_hex(4)}.partial"))
    try:
        write(partial, state)
        collectives.barrier("save_checkpoint")
        if collectives.rank == 0:
            replace_folder(partial, target)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the checkpoint {target}: {' '.join(str(error).split())[:200]}; what was there is still "
            "there. Make room, or choose a folder that all ranks may write to"
        ) from error
    collectives.barrier("save_checkpoint")


def remove(path: Path) -> None:
    """Remove a folder with all that is in it; of a link to one, the link.

    Raises:
        CheckpointError: it cannot be removed.
    """
    try:
        if os.path.islink(path):
            os.unlink(path)
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot remove the checkpoint {os.fspath(path)}: {error.strerror or error}; remove it by hand"
        ) from error
