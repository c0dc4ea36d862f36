"""What a DeepSpeedStrategy saves and loads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer

from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.strategies import ProcessGroupStrategy
from torchrelay_deepspeed import sharded
from torchrelay_deepspeed.conversion import Weights, read_native
from torchrelay_deepspeed.folder import is_native
from torchrelay_deepspeed.native import load_own_part, save_native
from torchrelay_deepspeed.optimizer_state import full_optimizer_state, load_full_optimizer_state
from torchrelay_deepspeed.user_config import read
from torchrelay_deepspeed.weights import full_weights, load_full_weights

OWN = "deepspeed"
"""Where a checkpoint has what only DeepSpeed counts."""


class EngineState(ProcessGroupStrategy):
    """State of an engine, in the canonical form or in folders of DeepSpeed's.

    Args:
        config, sharded_checkpoints, options: see `DeepSpeedStrategy`.
    """

    def __init__(self, config: Any, *, sharded_checkpoints: bool, **options: Any) -> None:
        super().__init__(**options)
        self.config = read(config)
        self.sharded_checkpoints = sharded_checkpoints
        self._fits = False
        self._groups: list[list[str]] | None = None
        self._took_own_part = False
        self._counted: Mapping[str, Any] | None = None

    def _engine(self) -> Any:
        """The engine; None before it is made, after it is gone, and in an evaluation that needs none."""
        return self._model if hasattr(self._model, "save_checkpoint") else None

    def model_state(self) -> dict[str, Any]:
        """Whole weights in fp32, by name."""
        engine = self._engine()
        if engine is None:
            return super().model_state()
        # Of a rank that does not come, the hang watchdog learns by a collective first.
        self.collectives.barrier("model_state")
        return full_weights(engine, self.module)

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Into the engine's copies, and into the masters that it updates."""
        engine = self._engine()
        if engine is None:
            super().load_model_state(state, strict=strict)
            return
        self._took_own_part = (
            self._fits
            and strict
            and isinstance(state, Weights)
            and load_own_part(engine, state, self.module)
        )
        if not self._took_own_part:
            load_full_weights(engine, state, self.module, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole moments, by parameter name."""
        return full_optimizer_state(self.model, self.module, self._groups)

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Each rank takes its part, unless it has read that with the weights."""
        if self._took_own_part:
            return
        load_full_optimizer_state(self.model, state, self.module, self._groups)
        scheduler = getattr(self.model, "lr_scheduler", None)
        if scheduler is not None and self._counted:
            scheduler.load_state_dict(self._counted["lr_scheduler"])

    @property
    def saves_sharded(self) -> bool:
        """With `sharded_checkpoints`, as long as there is an engine to write them."""
        return self.sharded_checkpoints and self._engine() is not None

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """A file of the canonical form, or with `sharded_checkpoints` a folder of DeepSpeed's.

        The state of a scheduler that DeepSpeed made is in either.
        """
        scheduler = getattr(self._engine(), "lr_scheduler", None)
        own = {} if scheduler is None else {OWN: {"lr_scheduler": scheduler.state_dict()}}
        checkpoint = {**checkpoint, **own}
        if "state_dict" in checkpoint:
            super().save_checkpoint(checkpoint, path)
        else:
            save = partial(save_native, self.model, module=self.module, groups=self._groups)
            sharded.save(save, checkpoint, path, self.collectives)

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """A file, or a folder of DeepSpeed's, of which nothing is read yet but what each rank needs to begin.

        The state of a scheduler that DeepSpeed made is kept for when the optimizer's is taken up.
        """
        if is_native(path):
            self.collectives.barrier("load_checkpoint")
            checkpoint = read_native(path)
        else:
            checkpoint = super().load_checkpoint(path, weights_only=weights_only)
        schedulers = checkpoint.get("lr_schedulers")
        if self.config.scheduler and schedulers and OWN not in checkpoint:
            # Written by DeepSpeed alone, which does not tell its own scheduler from the user's.
            checkpoint |= {OWN: {"lr_scheduler": schedulers[0]}, "lr_schedulers": []}
        self._counted = checkpoint.get(OWN)
        return checkpoint

    def remove_checkpoint(self, path: Path) -> None:
        """Remove a file, or a folder of DeepSpeed's, once."""
        if self.is_global_zero and is_native(path):
            sharded.remove(path)
        else:
            super().remove_checkpoint(path)
