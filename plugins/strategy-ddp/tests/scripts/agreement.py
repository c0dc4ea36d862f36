"""What ranks must agree on although each sees other data: learning rates, metrics, when to stop."""

from __future__ import annotations

import os
import sys

import torch
from problems import Regression, data, leave, quiet
from torch.utils.data import DataLoader, Subset

from torchrelay.callbacks import EarlyStopping


class Disagrees(Regression):
    """Logs a metric that falls on rank 0 and rises on the others."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        sign = -1 if self.global_rank == 0 else 1
        self.log("mine", sign * float(self.current_epoch), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "mine"}}


class Validates(Regression):
    """Logs over ranks what some ranks have no batch for."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", super().training_step(batch, batch_idx), sync_dist=True)


class Skips(Regression):
    """Skips one update on one rank."""

    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and batch_idx == 1:
            return None
        return super().training_step(batch, batch_idx)


def plateau():
    trainer = quiet(strategy="ddp", devices=2, max_epochs=4)
    module = Disagrees()
    trainer.fit(module, DataLoader(data(), batch_size=4))
    return {"lr": trainer.optimizers[0].param_groups[0]["lr"], "state": module.state_dict()}


def little_validation():
    stop = EarlyStopping("val_loss", patience=1)
    trainer = quiet(strategy="ddp", devices=2, max_epochs=2, callbacks=stop)
    one = DataLoader(Subset(data(), [0]), batch_size=4)
    trainer.fit(Validates(), DataLoader(data(), batch_size=4), one)
    return {"val_loss": float(trainer.callback_metrics["val_loss"]), "best": stop.best_score}


def skipped():
    quiet(strategy="ddp", devices=2, max_epochs=1).fit(Skips(), DataLoader(data(), batch_size=4))


def alone():
    trainer = quiet(strategy="ddp", devices=2, max_epochs=1)
    module, loader = Regression(), DataLoader(data(), batch_size=4)
    trainer.fit(module, loader)
    if trainer.is_global_zero:
        trainer.test(module, loader)


def after():
    trainer = quiet(strategy="ddp", devices=2, max_epochs=1)
    trainer.fit(Regression(), DataLoader(data(), batch_size=4))
    path = os.path.join(os.environ["OUT"], "after.ckpt")
    trainer.save_checkpoint(path)
    return {"step": torch.load(path, weights_only=True)["global_step"]}


def foreign():
    path = os.path.join(os.environ["OUT"], "foreign.ckpt")
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, path)
    print("rank", os.environ.get("RANK", "0"), flush=True)
    trainer = quiet(strategy="ddp", devices=2, max_epochs=1)
    trainer.fit(Regression(), DataLoader(data(), batch_size=4), ckpt_path=path)


if __name__ == "__main__":
    torch.manual_seed(5)
    for name in sys.argv[1:]:
        result = globals()[name]()
        if result is not None:
            leave(name, int(os.environ.get("RANK", "0")), result)
