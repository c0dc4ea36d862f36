"""Lightning's callbacks, and what acts on rank 0 alone, in a run of two processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path

import lightning.pytorch.callbacks as lightnings
import torch
import torchrelay as pl
from torch.utils.data import DataLoader, TensorDataset
from torchrelay.utilities import rank_zero_only

folder = Path(sys.argv[1])


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layer(batch[0]).pow(2).mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Telling(lightnings.Callback):
    def on_fit_end(self, trainer, pl_module):
        rank = trainer.global_rank
        summed = trainer.strategy.reduce(torch.tensor(float(rank + 1)), reduce_op="sum")
        agreed = trainer.strategy.reduce_boolean_decision(rank == 0, all=False)
        from_first = trainer.strategy.broadcast(f"of {rank}")
        (folder / f"told{rank}").write_text(f"{summed.item()} {agreed} {from_first} {trainer.current_epoch}")
        only_once()


@rank_zero_only
def only_once():
    with (folder / "once").open("a") as file:
        file.write("x")


only_once()
data = DataLoader(TensorDataset(torch.ones(16, 2)), batch_size=2)
stopping = lightnings.EarlyStopping("val_loss", patience=1, min_delta=100)
keeper = lightnings.ModelCheckpoint(folder / "kept", monitor="val_loss")
trainer = pl.Trainer(
    strategy="ddp", accelerator="cpu", devices=2, max_epochs=9, logger=False, default_root_dir=folder,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[Telling(), stopping, keeper],
)
trainer.fit(Net(), data, data)
"""


@pytest.mark.timeout(100)
def test_two_processes_agree(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    told = [(tmp_path / f"told{rank}").read_text() for rank in range(2)]
    assert told == ["3.0 True of 0 2"] * 2
    assert (tmp_path / "once").read_text() == "xx", "before the run, and in it"
    assert len([*(tmp_path / "kept").iterdir()]) == 1
