"""Runs that are saved, interrupted, and taken up again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from torchrelay.callbacks.callback import Callback, Checkpointer
from torchrelay.checkpoint.torch_io import TorchCheckpointIO
from torchrelay.testing.context import Context
from torchrelay.testing.models import Regression, samples
from torchrelay.testing.training import BATCH, Place, in_each_process

BATCHES, EPOCHS = 4, 3
HALF = 6
"""The update after which the checkpoint is written: in the middle of the second epoch."""

SLOW = 1.0
"""Seconds that it takes to write a checkpoint, where that is to be seen."""

HANG_TIMEOUT = 4.0


class Annealed(Regression):
    """AdamW whose rate falls with each epoch, and dropout if asked for; all weights 0 for one that is to resume."""

    def __init__(self, dropout: float = 0.0, *, empty: bool = False) -> None:
        super().__init__()
        if empty:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)
        self.net[1] = nn.Sequential(nn.Tanh(), nn.Dropout(dropout))

    def configure_optimizers(self) -> Any:
        """AdamW, annealed."""
        optimizer = AdamW(self.parameters(), lr=0.02)
        return [optimizer], [StepLR(optimizer, 1, gamma=0.7)]


class SaveAtHalf(Checkpointer):
    """Writes a checkpoint in mid-epoch."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def on_resumable_point(self, trainer: Any, pl_module: Any, reason: str) -> None:
        """Write it. Collective."""
        if reason == "step" and trainer.global_step == HALF:
            trainer.save_checkpoint(self.path)


class End(Callback):
    """Keeps on rank 0 what training ends with."""

    def __init__(self) -> None:
        self.reached: dict[str, Any] = {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep it. Collective."""
        strategy = trainer.strategy
        [optimizer] = strategy.optimizers
        weights, state = strategy.model_state(), strategy.optimizer_state(optimizer)
        # The contract asks for whole ones there alone.
        if strategy.is_global_zero:
            self.reached = {
                "state": _copied(weights),
                "optimizer": {name: _copied(each) for name, each in state["state"].items()},
                "rates": [float(group["lr"]) for group in state["param_groups"]],
                "updates": trainer.global_step,
            }


def _copied(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(each).detach().cpu().clone() for name, each in values.items()}


def checkpoint_of(folder: Path, name: str) -> Path:
    """Where a program leaves its checkpoint, in the folder of its results."""
    return folder / f"{name}.ckpt"


def whole(context: Context, start: str, **settings: Any) -> None:
    """Train to the end and leave a checkpoint of the middle; then go on from it, and from another's if given."""
    in_each_process(context, _whole, settings, start)


def resume(context: Context, start: str, **settings: Any) -> None:
    """Go on from a checkpoint."""
    in_each_process(context, _resume, settings, start)


def _whole(place: Place, start: str) -> None:
    for name, noisy in (("plain", False), ("noisy", True)):
        save = SaveAtHalf(checkpoint_of(place.context.folder, name))
        place.attempt(name, partial(_fit, place, noisy, None, save))
    own = checkpoint_of(place.context.folder, "noisy")
    place.attempt("resumed-noisy", partial(_fit, place, True, own))
    place.attempt("waits", partial(_wait, place))
    if start:
        _resume(place, start)


def _resume(place: Place, start: str) -> None:
    place.attempt("resumed-plain", partial(_fit, place, False, start))


def _fit(place: Place, noisy: bool, start: Any, *callbacks: Callback) -> dict[str, Any]:
    torch.manual_seed(17 + place.rank if start is None else 1)
    # The checkpoint has to bring everything.
    module, end = Annealed(0.5 if noisy else 0.0, empty=start is not None), End()
    # None: a Checkpointer among the callbacks, or none at all.
    options = {"enable_checkpointing": None if callbacks else False, "max_epochs": EPOCHS}
    trainer = place.trainer(callbacks=[end, *callbacks], **options)
    data = samples(BATCHES * BATCH * place.ranks)
    trainer.fit(module, DataLoader(data, place.batch_size, shuffle=noisy), ckpt_path=start)
    return end.reached


class SlowIO(TorchCheckpointIO):
    """Takes a while to write."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Any) -> None:
        """Write later."""
        time.sleep(SLOW)
        super().save_checkpoint(checkpoint, path)


class SaveAtEnd(Callback):
    """Writes a checkpoint at the end, and looks at once whether it is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = False

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write it. Collective."""
        trainer.save_checkpoint(self.path)
        self.found = self.path.exists()


def _wait(place: Place) -> bool:
    save = SaveAtEnd(checkpoint_of(place.context.folder, "slow"))
    trainer = place.trainer(callbacks=save, plugins=[SlowIO()], max_steps=1)
    trainer.fit(Annealed(), DataLoader(samples(BATCH * place.ranks), place.batch_size))
    return save.found


class Absent(Annealed):
    """Saves its weights in the second batch, without the last rank, which does something else."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save, or stay away."""
        if batch_idx != 1:
            return
        strategy = self.trainer.strategy
        if strategy.global_rank < strategy.world_size - 1:
            path = checkpoint_of(self.context.folder, "lonely")
            self.trainer.save_checkpoint(path, weights_only=True)
            self.context.leave("saved", strategy.global_rank, True)
        time.sleep(3 * HANG_TIMEOUT if strategy.global_rank else HANG_TIMEOUT / 2)


def leave_out(context: Context) -> None:
    """Save without one rank, while somebody watches for hangs."""
    trainer = context.trainer(hang_timeout=HANG_TIMEOUT)
    trainer.fit(Absent(context), DataLoader(samples(64), 4))


class Mine:
    """What ends the process while it is written."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return dict, ()


class Mined(Annealed):
    """Saves twice under one name; the process ends while the second checkpoint is being written."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save."""
        if batch_idx < 2:
            self.trainer.save_checkpoint(checkpoint_of(self.context.folder, "torn"))
            self.context.leave(f"saved-{batch_idx}", self.global_rank, True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what ends the process."""
        if self.global_step == 2:
            checkpoint["mine"] = Mine()


def tear(context: Context) -> None:
    """End the process that writes a checkpoint while it does."""
    context.trainer().fit(Mined(context), DataLoader(samples(64), 4))
