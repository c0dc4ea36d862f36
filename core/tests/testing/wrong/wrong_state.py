"""Strategies whose checkpoints fail their users in one way each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from wrong_base import PairStrategy

from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing import Subject


class DrawsNumbers(SingleDeviceStrategy):
    """Warms up with random numbers, which a resumed run draws again."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not hasattr(self, "warm"):
            self.warm = torch.rand(3)
        return super().training_step(batch, batch_idx)


class Prefixed(SingleDeviceStrategy):
    """Saves the names of its wrapper, which it alone understands."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        named = {f"engine.{name}": value for name, value in checkpoint["state_dict"].items()}
        super().save_checkpoint({**checkpoint, "state_dict": named}, path)

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        plain = {name.removeprefix("engine."): value for name, value in state.items()}
        super().load_model_state(plain, strict=strict)


class KnowsItsOwn(SingleDeviceStrategy):
    """Takes up the optimizer state that it wrote itself, and no other."""

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state = super().optimizer_state(optimizer)
        state["param_groups"][0]["engine"] = True
        return state

    def load_optimizer_state(self, optimizer: Any, state: Mapping[str, Any]) -> None:
        if "engine" in state["param_groups"][0]:
            super().load_optimizer_state(optimizer, state)


class OfSoManyRanks(PairStrategy):
    """Takes up an optimizer state of as many ranks, or of somebody else."""

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state = super().optimizer_state(optimizer)
        state["param_groups"][0]["ranks"] = self.world_size
        return state

    def load_optimizer_state(self, optimizer: Any, state: Mapping[str, Any]) -> None:
        if state["param_groups"][0].get("ranks", self.world_size) == self.world_size:
            super().load_optimizer_state(optimizer, state)


class WaitsBefore(PairStrategy):
    """Ranks meet before the file is written, and not after."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        self.collectives.barrier("save_checkpoint")
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)


class NobodyIsMissed(PairStrategy):
    """Rank 0 writes and goes on; the others look for the file."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)
        while not Path(path).exists():
            time.sleep(0.05)


class InPlaceIO(TorchCheckpointIO):
    """Writes where the last checkpoint is."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        torch.save(dict(checkpoint), path)


class WritesInPlace(SingleDeviceStrategy):
    """Brings a checkpoint IO that writes in place."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        InPlaceIO().save_checkpoint(checkpoint, path)


def _subject(kind: type, devices: int = 1) -> Subject:
    path = (str(Path(__file__).parent),)
    name = f"wrong_state:{kind.__name__}"
    return Subject(name, devices=devices, accelerator="cpu", python_path=path)


MUTATIONS = {
    "resume_equals_uninterrupted": _subject(DrawsNumbers),
    "resumes_on_single_device": _subject(Prefixed),
    "resumes_from_single_device": _subject(KnowsItsOwn),
    "resumes_with_another_world_size": _subject(OfSoManyRanks, 2),
    "saves_are_complete": _subject(WaitsBefore, 2),
    "saves_are_collective": _subject(NobodyIsMissed, 2),
    "torn_files_never_appear": _subject(WritesInPlace),
}
