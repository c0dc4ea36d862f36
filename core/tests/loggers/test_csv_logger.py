from __future__ import annotations

import csv
import pickle

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
