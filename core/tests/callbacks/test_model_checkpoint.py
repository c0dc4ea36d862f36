from __future__ import annotations

import os

import pytest
import torch

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.errors import ConfigurationError

SCORES = [3.0, 1.0, 2.0, float("nan"), 0.5]


@pytest.fixture
def run(boring, make_trainer, tmp_path):
    """Fits a few epochs whose validations log the given scores."""

    def fit(keeper, scores=SCORES, resume=None, **options):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                self.log("score", scores[self.current_epoch])

        module = boring.regression(validation_step=validation_step)
        trainer = make_trainer(callbacks=keeper, **{"max_epochs": len(scores), **options})
        trainer.fit(module, boring.loader(8), boring.loader(4), ckpt_path=resume)
        return trainer, module

    return fit


def kept(path):
    return sorted(os.listdir(path)) if path.exists() else []


@pytest.mark.parametrize(
    ("options", "files", "best"),
    [
        ({"monitor": "score"}, [4], 4),
        ({"monitor": "score", "save_top_k": 2}, [1, 4], 4),
        ({"monitor": "score", "save_top_k": 4}, [0, 1, 2, 4], 4),
        ({"monitor": "score", "save_top_k": 2, "mode": "max"}, [0, 2], 0),
        ({"monitor": "score", "save_top_k": -1}, [0, 1, 2, 3, 4], 4),
        ({"monitor": "score", "save_top_k": 0}, [], None),
        ({"monitor": "score", "save_top_k": 2, "every_n_epochs": 2}, [1, 3], 1),
        ({}, [4], 4),
        ({"save_top_k": -1}, [0, 1, 2, 3, 4], 4),
        ({"every_n_epochs": 2}, [3], 3),
    ],
    ids=str,
)
def test_which_are_kept(run, tmp_path, options, files, best):
    keeper = ModelCheckpoint(dirpath=tmp_path / "kept", filename="{epoch}", **options)
    run(keeper)
    assert kept(tmp_path / "kept") == [f"epoch={epoch}.ckpt" for epoch in files]
    assert keeper.best_model_path == (
        "" if best is None else str(tmp_path / "kept" / f"epoch={best}.ckpt")
    )
    if "monitor" in options and best is not None:
        assert keeper.best_model_score == SCORES[best]
    else:
        assert keeper.best_model_score is None


@pytest.mark.parametrize("scores", [[float("nan"), 2.0, 3.0], [2.0, float("nan"), 3.0]], ids=str)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_the_worst(run, tmp_path, scores, mode):
    keeper = ModelCheckpoint(
        dirpath=tmp_path / "kept", filename="{epoch}", monitor="score", mode=mode
    )
    run(keeper, scores)
    assert keeper.best_model_score == (2.0 if mode == "min" else 3.0)


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        (None, "epoch=0-step=2"),
        ("best", "best"),
        ("{epoch:03d}-{step}", "epoch=000-step=2"),
        ("run-{epoch}-{score:.2f}", "run-epoch=0-score=3.00"),
        ("{a/b:.1f}", "a_b=1.5"),
        ("deep/{epoch}", "deep/epoch=0"),
    ],
)
def test_names_of_files(boring, make_trainer, tmp_path, filename, name):
    def validation_step(self, batch, batch_idx):
        self.log_dict({"score": 3.0, "a/b": 1.5})

    keeper = ModelCheckpoint(dirpath=tmp_path / "kept", filename=filename)
    module = boring.regression(validation_step=validation_step)
    make_trainer(callbacks=keeper).fit(module, boring.loader(8), boring.loader(4))
    assert keeper.best_model_path == str(tmp_path / "kept" / f"{name}.ckpt")
    assert os.path.exists(keeper.best_model_path)


def test_the_folder_by_default(run, tmp_path):
    keeper = ModelCheckpoint()
    run(keeper, [1.0])
    assert keeper.best_model_path == str(tmp_path / "checkpoints" / "epoch=0-step=2.ckpt")


def test_one_name_is_overwritten_by_its_successor_and_numbered_beside_others(run, tmp_path):
    keeper = ModelCheckpoint(dirpath=tmp_path / "one", filename="model", monitor="score")
    run(keeper)
    assert kept(tmp_path / "one") == ["model.ckpt"]
    assert torch.load(keeper.best_model_path, weights_only=True)["epoch"] == 5
    latest = ModelCheckpoint(dirpath=tmp_path / "latest", filename="model")
    run(latest)
    assert kept(tmp_path / "latest") == ["model.ckpt"]
    three = ModelCheckpoint(
        dirpath=tmp_path / "three", filename="model", monitor="score", save_top_k=3
    )
    run(three)
    assert len(kept(tmp_path / "three")) == 3
    epochs = sorted(torch.load(path, weights_only=True)["epoch"] for path in three.kept)
    assert epochs == [2, 3, 5]


def test_the_files_of_an_earlier_run_are_left_alone(run, tmp_path):
    for _ in range(2):
        run(ModelCheckpoint(dirpath=tmp_path / "kept", filename="{epoch}"), [1.0])
    assert kept(tmp_path / "kept") == ["epoch=0-v1.ckpt", "epoch=0.ckpt"]


@pytest.mark.parametrize("top_k", [0, 1])
def test_the_last_is_kept_as_well(run, tmp_path, top_k):
    keeper = ModelCheckpoint(
        tmp_path / "kept", "{epoch}", "score", save_top_k=top_k, save_last=True
    )
    run(keeper, [1.0, 2.0, 3.0])
    assert kept(tmp_path / "kept") == ["epoch=0.ckpt"] * top_k + ["last.ckpt"]
    assert keeper.last_model_path == str(tmp_path / "kept" / "last.ckpt")
    assert torch.load(keeper.last_model_path, weights_only=True)["epoch"] == 3


def test_best_and_last_can_be_asked_for_by_name(run, boring, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", monitor="score", save_last=True)
    trainer, module = run(keeper, [1.0, 2.0])
    steps = []
    module.on_load_checkpoint = lambda checkpoint: steps.append(checkpoint["global_step"])
    for name in ("best", "last"):
        trainer.test(module, boring.loader(), ckpt_path=name)
    assert steps == [2, 4]


def test_the_best_survives_a_resume(run, tmp_path):
    first = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2, save_last=True)
    run(first, [3.0, 1.0])
    second = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2, save_last=True)
    trainer, _ = run(second, [9.0, 9.0, 2.0, 4.0], resume=first.last_model_path)
    assert trainer.global_step == 8
    assert (
        second.best_model_path == first.best_model_path == str(tmp_path / "kept" / "epoch=1.ckpt")
    )
    assert second.best_model_score == 1.0
    assert kept(tmp_path / "kept") == ["epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]


def test_files_that_are_gone_are_forgotten(run, tmp_path):
    first = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2, save_last=True)
    run(first, [1.0, 2.0])
    os.remove(tmp_path / "kept" / "epoch=0.ckpt")
    second = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2)
    run(second, [9.0, 9.0, 3.0, 9.0], resume=first.last_model_path)
    assert kept(tmp_path / "kept") == ["epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]
    assert second.best_model_score == 2.0


def test_only_epochs_that_were_validated_are_judged(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=-1)
    run(keeper, [5.0, 4.0, 3.0, 2.0, 1.0], check_val_every_n_epoch=2)
    assert {os.path.basename(path): score for path, score in keeper.kept.items()} == {
        "epoch=1.ckpt": 4.0,
        "epoch=3.ckpt": 2.0,
    }


def test_a_run_that_stops_inside_an_epoch(run, tmp_path):
    judged = ModelCheckpoint(tmp_path / "judged", "{epoch}-{step}", "score", save_last=True)
    run(judged, [2.0, 1.0], max_steps=3)
    assert kept(tmp_path / "judged") == ["epoch=0-step=2.ckpt", "last.ckpt"]
    assert torch.load(judged.last_model_path, weights_only=True)["global_step"] == 3
    latest = ModelCheckpoint(tmp_path / "latest")
    run(latest, [2.0, 1.0], max_steps=3)
    assert kept(tmp_path / "latest") == ["epoch=1-step=3.ckpt"]


def test_fast_dev_run_keeps_nothing(run, tmp_path):
    run(ModelCheckpoint(tmp_path / "kept", save_last=True), fast_dev_run=True)
    assert kept(tmp_path / "kept") == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"monitor": "scor"},
            r"monitor='scor'\): no such metric has been logged; logged: loss, score",
        ),
        (
            {"filename": "{scor}"},
            r"filename='{scor}'\): 'scor' is neither epoch, step nor a logged metric",
        ),
        (
            {"filename": "{score:d}"},
            r"filename='{score:d}'\): {score:d} cannot be filled in: Unknown format code",
        ),
    ],
)
def test_a_metric_that_is_not_there(run, tmp_path, options, match):
    with pytest.raises(ConfigurationError, match=match):
        run(ModelCheckpoint(dirpath=tmp_path / "kept", **options))
    assert kept(tmp_path / "kept") == []
