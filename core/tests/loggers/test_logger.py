from __future__ import annotations

import csv

import pytest

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.loggers import tell


class Everything:
    """A logger with all that a logger may have."""

    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step):
        self.calls.append(("log_metrics", step))

    def log_hyperparams(self, params):
        self.calls.append(("log_hyperparams", params))

    def after_save_checkpoint(self, checkpoint_callback):
        self.calls.append(("after_save_checkpoint", checkpoint_callback))

    def save(self):
        self.calls.append(("save",))

    def finalize(self, status):
        self.calls.append(("finalize", status))


class Metrics:
    """A logger with nothing but what is needed."""

    def log_metrics(self, metrics, step):
        pass


def test_what_a_logger_has_is_called():
    logger = Everything()
    loggers = [Metrics(), logger]
    tell(loggers, "log_hyperparams", {"lr": 1})
    tell(loggers, "save")
    tell(loggers, "log_graph", object())
    tell(loggers, "finalize", "success")
    assert logger.calls == [("log_hyperparams", {"lr": 1}), ("save",), ("finalize", "success")]


def test_it_hears_of_checkpoints(boring, make_trainer, tmp_path):
    logger, keeper = Everything(), ModelCheckpoint(tmp_path)
    trainer = make_trainer(
        logger=[Metrics(), logger], callbacks=keeper, enable_checkpointing=True, max_epochs=2
    )
    trainer.fit(boring.regression(), boring.loader(8), boring.loader(4))
    assert logger.calls.count(("after_save_checkpoint", keeper)) == 2


def test_a_logger_of_lightning_works_as_it_is(boring, make_trainer, tmp_path):
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    theirs = loggers.CSVLogger(tmp_path)
    keeper = ModelCheckpoint(tmp_path / "kept")
    trainer = make_trainer(
        logger=theirs, callbacks=keeper, enable_checkpointing=True, log_every_n_steps=1
    )
    tell(trainer.loggers, "log_hyperparams", {"lr": 0.1})
    trainer.fit(boring.regression(), boring.loader(8), boring.loader(4))
    tell(trainer.loggers, "save")
    tell(trainer.loggers, "finalize", "success")
    with open(f"{theirs.log_dir}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2"]
    assert [row["step"] for row in rows if row["val_loss"]] == ["2"]


def offline_wandb(folder, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return pytest.importorskip("lightning.pytorch.loggers").WandbLogger(
        project="tests", save_dir=folder, offline=True
    )


def mlflow_in_a_file(folder, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return pytest.importorskip("lightning.pytorch.loggers").MLFlowLogger(
        "tests", tracking_uri=f"file:{folder}/mlruns", log_model=True
    )


def whole_run(logger, boring, make_trainer, folder):
    """A run with all that a Trainer calls."""
    keeper = ModelCheckpoint(folder / "kept", monitor="val_loss", save_top_k=2, save_last=True)
    trainer = make_trainer(
        logger=logger, callbacks=keeper, enable_checkpointing=True, log_every_n_steps=1
    )
    tell(trainer.loggers, "log_hyperparams", {"lr": 0.1})
    trainer.fit(boring.regression(), boring.loader(8), boring.loader(4))
    tell(trainer.loggers, "save")
    tell(trainer.loggers, "finalize", "success")


@pytest.mark.filterwarnings("default")  # of wandb's own making
def test_lightnings_logger_for_wandb(boring, make_trainer, tmp_path, monkeypatch):
    logger = offline_wandb(tmp_path, monkeypatch)
    try:
        whole_run(logger, boring, make_trainer, tmp_path)
        assert logger.experiment.summary["trainer/global_step"] == 2
        assert logger.experiment.summary["val_loss"] > 0
        assert logger.experiment.config["lr"] == 0.1
    finally:
        logger.experiment.finish()


@pytest.mark.filterwarnings("default")  # of mlflow's own making
def test_lightnings_logger_for_mlflow(boring, make_trainer, tmp_path, monkeypatch):
    logger = mlflow_in_a_file(tmp_path, monkeypatch)
    whole_run(logger, boring, make_trainer, tmp_path)
    run = logger.experiment.get_run(logger.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    assert run.data.metrics["val_loss"] > 0
    kept = {file.path for file in logger.experiment.list_artifacts(logger.run_id)}
    assert kept == {"last", "epoch=0-step=2"}
