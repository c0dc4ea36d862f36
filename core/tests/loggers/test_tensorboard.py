from __future__ import annotations

import importlib.util
import json
import pickle

import pytest
import torch

from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.loggers import TensorBoardLogger

there = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard"
)


def events(logger):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(logger.log_dir)
    found.Reload()
    return found


def scalars(logger, name):
    return [(event.step, event.value) for event in events(logger).Scalars(name)]


@there
def test_metrics_of_a_run(boring, make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run")
    trainer = make_trainer(logger=logger, log_every_n_steps=2, max_epochs=2)
    trainer.fit(boring.regression(), boring.loader(16), boring.loader(4))
    logger.finalize("success")
    assert logger.log_dir == str(tmp_path / "run" / "version_0")
    assert [step for step, _ in scalars(logger, "loss")] == [2, 4, 6, 8]
    last = pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert [step for step, _ in scalars(logger, "val_loss")] == [4, 8]
    assert scalars(logger, "val_loss")[-1][1] == last


@there
def test_names_folders_and_tensors(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="mine", prefix="a", sub_dir="deep")
    logger.log_metrics({"loss": torch.tensor(0.5)}, step=3)
    logger.save()
    assert logger.log_dir == str(tmp_path / "mine" / "deep")
    assert (logger.name, logger.version, logger.save_dir) == ("", "mine", str(tmp_path))
    assert scalars(logger, "a-loss") == [(3, 0.5)]
    logger.finalize("success")


@there
def test_it_goes_on_after_the_end_and_in_another_process(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    again = pickle.loads(pickle.dumps(logger))
    again.log_metrics({"loss": 2.0}, step=2)
    again.finalize("success")
    assert scalars(logger, "loss") == [(1, 1.0), (2, 2.0)]


@there
@pytest.mark.parametrize("default", [True, False])
def test_hyper_parameters(tmp_path, default):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=default)
    logger.log_hyperparams({"lr": 0.1, "net": {"width": 8}, "layers": [1, 2]})
    logger.finalize("success")
    with open(f"{logger.log_dir}/hparams.yaml") as file:
        assert json.load(file) == {"lr": 0.1, "net": {"width": 8}, "layers": [1, 2]}
    found = events(logger)
    assert (found.Tags()["scalars"] == ["hp_metric"]) is default


@there
def test_a_graph_is_refused(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"logger.experiment.add_graph\(network, inputs\)$"
    ):
        TensorBoardLogger(tmp_path, log_graph=True)


def test_without_tensorboard_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=r'pip install "torchrelay\[tensorboard\]"$'):
        TensorBoardLogger(tmp_path)
