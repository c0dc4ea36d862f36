"""Whatever was read from a file, in the canonical form of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchrelay.checkpoint import lightning
from torchrelay.checkpoint.migrations import migrate


def to_canonical(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a checkpoint of Lightning, or of an earlier torchrelay, to the present form; `checkpoint` stays as it is.

    Raises:
        CheckpointError: it is neither, or a later torchrelay wrote it.
    """
    if lightning.is_lightning(checkpoint):
        return lightning.convert(checkpoint)
    return migrate(checkpoint)
