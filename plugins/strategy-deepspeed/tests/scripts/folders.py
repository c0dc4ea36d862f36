"""Save sharded checkpoints through the Trainer, and go on from them.

python folders.py TASK DEVICES FOLDER [KIND ...]

A kind is a stage and a precision, such as `3-bf16-mixed`. The tasks leave, by kind, what this rank arrived at:

    save     fit for eight epochs in one go, and for four with a folder after each
    resume   go on from the folders, in as many processes or in others, at the same stage
    ddp      go on from them without DeepSpeed
    bare     folders that DeepSpeed alone has written
    full     a folder that cannot be written
    held     go on from folders with state that NVMe held, in as many processes
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from problems import BATCH, Regression, leave, loader, quiet, state_of

from torchrelay.callbacks import Callback, ModelCheckpoint
from torchrelay.errors import CheckpointError

EPOCHS = 8


class Scheduled(Regression):
    """Follows a schedule, and tells what it finds in a checkpoint."""

    def configure_optimizers(self) -> Any:
        """AdamW whose rate falls with each epoch."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def on_load_checkpoint(self, checkpoint: Any) -> None:
        """Note when this comes, and what is there."""
        self.facts["loaded"] = sorted(checkpoint)
        self.facts["names"] = list(checkpoint["state_dict"])


class Rates(Callback):
    """Notes the learning rate of each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Note it."""
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def strategy(kind: str, **options: Any) -> Any:
    from torchrelay_deepspeed import DeepSpeedStrategy

    zero: dict[str, Any] = {
        "stage": int(kind[0]),
        "stage3_param_persistence_threshold": 0,
        "reduce_bucket_size": 100,
    }
    if "DISK" in os.environ:
        disk = {"device": "nvme", "nvme_path": os.environ["DISK"]}
        zero |= {"offload_optimizer": disk, "offload_param": disk}
    return DeepSpeedStrategy(
        {"zero_optimization": zero}, **{"sharded_checkpoints": True, **options}
    )


def fit(kind: str, devices: int, epochs: int, ckpt_path: Any = None, **options: Any) -> Any:
    torch.manual_seed(3)
    module = options.pop("module", Scheduled)()
    rates = Rates()
    callbacks = [rates, *options.pop("callbacks", [])]
    options = {"strategy": strategy(kind), "precision": kind[2:], **options}
    trainer = quiet(
        max_steps=-1,
        max_epochs=epochs,
        devices=devices,
        callbacks=callbacks,
        **{"enable_checkpointing": len(callbacks) > 1, **options},
    )
    trainer.fit(module, loader(BATCH // devices), ckpt_path=ckpt_path)
    return trainer, {
        "state": state_of(module),
        "rates": rates.rates,
        "steps": trainer.global_step,
        "facts": module.facts,
    }


def keeper(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=1, save_last=True)


def save(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    _, whole = fit(kind, devices, EPOCHS)
    place = folder / kind
    _, half = fit(kind, devices, EPOCHS // 2, callbacks=[keeper(place)])
    return {"whole": whole, "half": half, "files": sorted(os.listdir(place))}


def resume(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    last = folder / kind / "last.ckpt"
    _, resumed = fit(kind, devices, EPOCHS, ckpt_path=last)
    return {"resumed": resumed}


def ddp(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    name = "ddp" if devices > 1 else "single_device"
    last = folder / kind / "last.ckpt"
    _, resumed = fit(kind, devices, EPOCHS, ckpt_path=last, strategy=name, precision="32-true")
    return {"resumed": resumed}


def bare(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    """A folder without anything of torchrelay's."""

    class Bare(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.strategy.model.save_checkpoint(str(folder / f"bare-{kind}"))

    place = folder / f"bare-{kind}"
    # The engine does not know of a schedule of the user's, so that a folder of its own cannot have it.
    _, whole = fit(kind, devices, EPOCHS, module=Regression)
    _, half = fit(kind, devices, EPOCHS // 2, module=Regression, callbacks=[Bare()])
    _, resumed = fit(kind, devices, EPOCHS // 2, module=Regression, ckpt_path=place)
    return {"whole": whole, "half": half, "resumed": resumed}


def full(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    """A second save to the same place fails half-way."""
    place, messages = folder / f"full-{kind}" / "it", []

    class Fails(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(place)
            engine = trainer.strategy.model

            def broken(*arguments: Any, **options: Any) -> None:
                if trainer.is_global_zero:
                    Path(arguments[0]).mkdir()
                raise OSError(28, "No space left on device")

            engine.save_checkpoint = broken
            try:
                trainer.save_checkpoint(place)
            except CheckpointError as error:
                messages.append(str(error))

    fit(kind, devices, 1, callbacks=[Fails()])
    return {"messages": messages, "files": sorted(os.listdir(place.parent))}


def held(kind: str, devices: int, folder: Path) -> dict[str, Any]:
    """DeepSpeed keeps what NVMe held in a folder of that name."""
    last = folder / f"held-{kind}" / "last.ckpt"
    try:
        fit(kind, devices, EPOCHS, ckpt_path=last)
    except CheckpointError as error:
        return {"message": str(error)}
    return {"message": ""}


def main(task: str, devices: int, folder: Path, kinds: list[str]) -> None:
    results = {kind: globals()[task](kind, devices, folder) for kind in kinds}
    leave(f"{task}-{devices}", int(os.environ["RANK"]), results)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
