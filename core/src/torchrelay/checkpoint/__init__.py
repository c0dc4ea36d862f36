"""Checkpoints: their canonical form, and where and how they are written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.checkpoint.async_io import AsyncCheckpointIO as AsyncCheckpointIO
    from torchrelay.checkpoint.atomic import atomic_write as atomic_write
    from torchrelay.checkpoint.atomic import replace_folder as replace_folder
    from torchrelay.checkpoint.canonical import to_canonical as to_canonical
    from torchrelay.checkpoint.checkpoint_io import CheckpointIO as CheckpointIO
    from torchrelay.checkpoint.migrations import migrate as migrate
    from torchrelay.checkpoint.model_state import load_model_state as load_model_state
    from torchrelay.checkpoint.optimizer_names import from_names as from_names
    from torchrelay.checkpoint.optimizer_names import to_names as to_names
    from torchrelay.checkpoint.schema import Checkpoint as Checkpoint
    from torchrelay.checkpoint.schema import check_manifest as check_manifest
    from torchrelay.checkpoint.schema import make_manifest as make_manifest
    from torchrelay.checkpoint.torch_io import TorchCheckpointIO as TorchCheckpointIO
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "AsyncCheckpointIO": ".async_io",
            "Checkpoint": ".schema",
            "CheckpointIO": ".checkpoint_io",
            "TorchCheckpointIO": ".torch_io",
            "atomic_write": ".atomic",
            "check_manifest": ".schema",
            "from_names": ".optimizer_names",
            "load_model_state": ".model_state",
            "make_manifest": ".schema",
            "migrate": ".migrations",
            "replace_folder": ".atomic",
            "to_canonical": ".canonical",
            "to_names": ".optimizer_names",
        },
    )
