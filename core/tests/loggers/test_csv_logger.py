from __future__ import annotations

import csv
import json
import pickle
from argparse import Namespace

import torch

from torchrelay.loggers import CSVLogger


def rows(logger):
    with open(logger.path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_in_the_order_in_which_they_come(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 0.5, "epoch": 0}, step=1)
    logger.log_metrics({"loss": 0.25, "epoch": 1}, step=2)
    assert rows(logger) == [
        {"step": "1", "epoch": "0", "loss": "0.5"},
        {"step": "2", "epoch": "1", "loss": "0.25"},
    ]


def test_a_new_metric_is_a_new_column(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_metrics({"accuracy": 0.5}, step=1)
    logger.log_metrics({'a, "b"': 2.0}, step=2)
    assert [list(row) for row in rows(logger)] == [
        ["step", "epoch", "loss", "accuracy", 'a, "b"']
    ] * 3
    assert [{k: v for k, v in row.items() if v} for row in rows(logger)] == [
        {"step": "1", "loss": "1.0"},
        {"step": "1", "accuracy": "0.5"},
        {"step": "2", 'a, "b"': "2.0"},
    ]


def test_each_run_has_a_folder_of_its_own_which_is_made_when_it_is_needed(tmp_path):
    loggers = [CSVLogger(tmp_path / "logs", name="run") for _ in range(3)]
    assert not (tmp_path / "logs").exists()
    folders = [logger.log_dir for logger in loggers]
    assert folders == [str(tmp_path / "logs" / "run" / f"version_{i}") for i in range(3)]
    assert loggers[0].log_dir == folders[0]


def test_it_travels_to_other_processes(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    again = pickle.loads(pickle.dumps(logger))
    again.log_metrics({"loss": 2.0}, step=2)
    assert [row["loss"] for row in rows(logger)] == ["1.0", "2.0"]


def test_a_run_that_goes_on_in_its_folder(tmp_path):
    CSVLogger(tmp_path, version="mine").log_metrics({"loss": 1.0, "epoch": 0}, step=1)
    again = CSVLogger(tmp_path, version="mine")
    again.log_metrics({"loss": 0.5}, step=2)
    again.log_metrics({"new": 2.0}, step=3)
    assert again.log_dir == str(tmp_path / "lightning_logs" / "mine")
    assert [row["loss"] for row in rows(again)] == ["1.0", "0.5", ""]
    assert [row["new"] for row in rows(again)] == ["", "", "2.0"]


def test_names_and_numbers(tmp_path):
    logger = CSVLogger(tmp_path, name=None, version=3, prefix="run")
    assert (logger.name, logger.version, logger.save_dir) == ("", 3, str(tmp_path))
    logger.log_metrics({"loss": torch.tensor(0.5), "epoch": 1}, step=7)
    assert rows(logger) == [{"step": "7", "epoch": "1", "run-loss": "0.5"}]
    assert logger.path == str(tmp_path / "version_3" / "metrics.csv")
    assert CSVLogger(tmp_path, name="").version == 0


def test_hyper_parameters_beside_the_metrics(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1, "net": {"width": 8, "act": torch.nn.Tanh}})
    logger.log_hyperparams(Namespace(layers=(1, 2), note=None))
    with open(f"{logger.log_dir}/hparams.yaml") as file:
        found = json.load(file)
    kind = "<class 'torch.nn.modules.activation.Tanh'>"
    expected = {"lr": 0.1, "net": {"width": 8, "act": kind}, "layers": [1, 2], "note": None}
    assert found == expected
