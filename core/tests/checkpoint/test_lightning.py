from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchrelay import LightningModule
from torchrelay.checkpoint import TorchCheckpointIO, lightning, to_canonical
from torchrelay.checkpoint.schema import MANIFEST
from torchrelay.errors import CheckpointError

DATA = Path(__file__).with_name("data")
IO = TorchCheckpointIO()
MODEL_CHECKPOINT = "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}"
EARLY_STOPPING = "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"


def load(name: str) -> dict[str, Any]:
    """A file of Lightning's, read with `weights_only=True`, in the canonical form."""
    return to_canonical(IO.load_checkpoint(DATA / f"{name}.ckpt"))


@pytest.mark.parametrize(
    ("name", "epoch", "batch", "step"),
    [
        ("inside_epoch", 1, 2, 8),
        ("last_batch", 1, 0, 6),
        ("validated", 1, 0, 6),
        ("epoch_end", 1, 0, 6),
        ("epoch_start", 1, 0, 6),
        ("finished", 2, 0, 12),
        ("weights", 2, 0, 12),
    ],
)
def test_where_the_run_stands(name: str, epoch: int, batch: int, step: int) -> None:
    found = load(name)
    assert found["loops"] == {
        "fit": {
            "epoch": epoch,
            "batch": batch,
            "global_step": step,
            "batches": step,
            "at_end": False,
        }
    }
    assert (found["epoch"], found["global_step"]) == (epoch, step)


def test_the_rest_of_a_file() -> None:
    found = load("inside_epoch")
    assert sorted(found["state_dict"]) == [
        f"layers.{i}.{kind}" for i in (0, 1) for kind in ("bias", "weight")
    ]
    assert found["optimizer_states"][0]["param_groups"][0]["params"] == [0, 1, 2, 3]
    assert found["lr_schedulers"][0]["last_epoch"] == 1
    assert found["hyper_parameters"] == {"width": 2, "rate": 0.1, "extra": None}
    assert found[MANIFEST]["lightning"] == found[lightning.VERSION]
    again = to_canonical(found)
    assert again.keys() == found.keys()
    assert again["loops"] == found["loops"]


def test_callbacks_that_mean_the_same() -> None:
    states = load("inside_epoch")["callbacks"]
    assert sorted(states) == [EARLY_STOPPING, MODEL_CHECKPOINT]
    score = states[MODEL_CHECKPOINT]["best_model_score"]
    assert score == pytest.approx(3.4686, abs=1e-3)
    assert states[MODEL_CHECKPOINT] == {
        "best_model_path": "memory://run/best.ckpt",
        "best_model_score": score,
        "last_model_path": "memory://run/last.ckpt",
        "kept": {"memory://run/best.ckpt": score},
    }
    assert states[EARLY_STOPPING] == {
        "wait_count": 0,
        "stopped_epoch": 0,
        "best_score": score,
        "patience": 5,
    }


def test_our_callbacks_take_them_up() -> None:
    callbacks = pytest.importorskip("torchrelay.callbacks")
    states = load("finished")["callbacks"]
    best = callbacks.ModelCheckpoint(monitor="val_loss")
    stopping = callbacks.EarlyStopping("val_loss")
    best.load_state_dict(states[best.state_key])
    stopping.load_state_dict(states[stopping.state_key])
    assert best.best_model_path == "memory://run/best.ckpt"
    assert stopping.best_score == best.best_model_score


def test_callbacks_of_any_arguments() -> None:
    key = (
        "ModelCheckpoint{'monitor': None, 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 0, "
        "'train_time_interval': datetime.timedelta(seconds=5)}"
    )
    saved = {
        "best_model_score": None,
        "best_model_path": "a",
        "best_k_models": {},
        "last_model_path": "",
    }
    stopped = {"wait_count": 3, "stopped_epoch": 4, "best_score": torch.tensor(1.0), "patience": 3}
    foreign = {"x": 1}
    file = {
        "state_dict": {},
        lightning.VERSION: "2.0.1",
        "callbacks": {key: saved, EARLY_STOPPING: stopped, "Timer": foreign},
    }
    states = to_canonical(file)["callbacks"]
    newest = states["ModelCheckpoint{'monitor': None, 'mode': 'max'}"]
    assert list(newest["kept"]) == ["a"]
    assert math.isnan(newest["kept"]["a"])
    assert states[EARLY_STOPPING]["stopped_epoch"] == 5
    assert states["Timer"] is foreign


def test_a_gradient_scale() -> None:
    file = {
        "state_dict": {},
        lightning.VERSION: "2.6.6",
        "MixedPrecision": {"scale": 4.0},
        "mine": 1,
    }
    found = to_canonical(file)
    assert found["precision"] == {"scale": 4.0}
    assert "MixedPrecision" not in found
    assert found["mine"] == 1


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ({"state_dict": {}, lightning.VERSION: "1.9.5"}, "upgrade_checkpoint FILE"),
        ({"model": {}, lightning.VERSION: "2.6.6"}, "no 'state_dict'"),
    ],
)
def test_what_cannot_be_converted(file: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        to_canonical(file)


def test_hyper_parameters_that_need_more_are_all_listed() -> None:
    with pytest.raises(CheckpointError) as caught:
        load("objects")
    assert (
        "import argparse, pathlib; torch.serialization.add_safe_globals([argparse.Namespace, pathlib.PosixPath])"
        in str(caught.value)
    )
    import argparse
    import pathlib

    with torch.serialization.safe_globals([argparse.Namespace, pathlib.PosixPath]):
        extra = load("objects")["hyper_parameters"]["extra"]
    assert extra["options"].depth == 1
    assert extra["place"] == Path("data")


class Regression(LightningModule):
    """The module of `data/make_lightning_files.py`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    def train_dataloader(self) -> Any:
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


@pytest.mark.parametrize(
    "name", ["inside_epoch", "last_batch", "validated", "epoch_end", "epoch_start"]
)
def test_a_run_goes_on_to_where_lightning_ended(
    name: str, make_trainer: Any, tmp_path: Path
) -> None:
    path, module = tmp_path / "converted.ckpt", Regression()
    IO.save_checkpoint(load(name), path)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, ckpt_path=path)
    ended = load("finished")
    assert trainer.global_step == ended["global_step"]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.025)
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, ended["state_dict"][key], rtol=1e-6, atol=1e-7)
