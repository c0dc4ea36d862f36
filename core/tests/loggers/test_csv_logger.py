from __future__ import annotations

import csv
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from argparse import Namespace

import pytest
import torch

from torchrelay.errors import ConfigurationError
from torchrelay.loggers import CSVLogger
from torchrelay.testing.forkserver import shared_server


def table(logger):
    with open(logger.path, newline="") as file:
        return list(csv.DictReader(file))


def rows(logger):
    return [{name: cell for name, cell in row.items() if name != "time"} for row in table(logger)]


def times(logger):
    return [float(row["time"]) for row in table(logger)]


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


def test_time_is_in_seconds_from_the_first_row(tmp_path):
    logger = CSVLogger(tmp_path)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
        time.sleep(0.05)
    assert times(logger)[0] == 0
    assert times(logger)[2] == pytest.approx(0.1, abs=0.08)
    assert times(logger) == sorted(times(logger))


def test_time_goes_on_where_an_earlier_process_ended(tmp_path):
    folder = tmp_path / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,epoch,time,loss\n1,0,0.0,1.0\n2,0,7.5,\n")
    logger = CSVLogger(tmp_path, version=0)
    logger.log_metrics({"loss": 0.5}, step=3)
    logger.log_metrics({"loss": 0.5}, step=4)
    assert times(logger)[:3] == [0.0, 7.5, 7.5]
    assert times(logger)[3] > 7.5


def test_a_file_of_another_logger_gets_the_columns_that_it_lacks(tmp_path):
    folder = tmp_path / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("loss,step\n1.0,1\n")
    logger = CSVLogger(tmp_path, version=0)
    logger.log_metrics({"loss": 0.5, "epoch": 0}, step=2)
    assert table(logger) == [
        {"loss": "1.0", "step": "1", "epoch": "", "time": ""},
        {"loss": "0.5", "step": "2", "epoch": "0", "time": "0.0"},
    ]


def test_a_metric_called_time_is_the_users(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"time": 12.0}, step=1)
    assert times(logger) == [12.0]


def test_rows_wait_for_the_number_that_is_asked_for_or_for_save(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=3)
    for step in range(4):
        logger.log_metrics({"loss": 1.0}, step=step)
    assert [row["step"] for row in rows(logger)] == ["0", "1", "2"]
    assert [row["step"] for row in logger.experiment.metrics] == [3]
    logger.save()
    assert [row["step"] for row in rows(logger)] == ["0", "1", "2", "3"]
    logger.log_metrics({"loss": 1.0}, step=4)
    logger.finalize("success")
    logger.log_metrics({"loss": 1.0}, step=5)
    logger.finalize("failed")
    assert [row["step"] for row in rows(logger)][-2:] == ["4", "5"]
    with pytest.raises(
        ConfigurationError, match=r"flush_logs_every_n_steps=0\): must be 1 or more"
    ):
        CSVLogger(tmp_path, flush_logs_every_n_steps=0)


def test_nothing_that_is_not_needed_is_made(tmp_path):
    logger = CSVLogger(tmp_path / "logs")
    logger.save()
    logger.finalize("success")
    assert logger.chosen_version is None
    assert not (tmp_path / "logs").exists()


def test_experiment_writes_the_same_files(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.experiment.log_metrics({"loss": torch.tensor(0.5)}, step=1)
    logger.experiment.log_hparams({"lr": 0.1})
    logger.experiment.save()
    assert rows(logger) == [{"step": "1", "epoch": "", "loss": "0.5"}]
    assert logger.experiment.log_dir == logger.log_dir
    assert sorted(os.listdir(logger.log_dir)) == ["hparams.yaml", "metrics.csv"]


def test_it_finds_the_file_that_another_process_has_replaced(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    other = CSVLogger(tmp_path, version=0)
    other.log_metrics({"loss": 2.0, "new": 3.0}, step=2)
    logger.log_metrics({"loss": 4.0}, step=3)
    assert [(row["loss"], row["new"]) for row in rows(logger)] == [
        ("1.0", ""),
        ("2.0", "3.0"),
        ("4.0", ""),
    ]


def test_a_logger_that_is_forgotten_closes_its_file(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=1)
    file = logger.experiment._file
    del logger
    gc.collect()
    assert file.closed


KILLED = """
import os, signal, sys
from torchrelay.loggers import CSVLogger
logger = CSVLogger(sys.argv[1])
for step in range(50):
    logger.log_metrics({"loss": 1.0, **({"late": 2.0} if step > 30 else {})}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(60)
def test_a_process_that_is_killed_loses_no_row(tmp_path):
    done = shared_server().run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=50)
    assert done.returncode == -signal.SIGKILL
    found = rows(CSVLogger(tmp_path, version=0))
    assert [row["step"] for row in found] == [str(step) for step in range(50)]
    assert [row["late"] for row in found] == [""] * 31 + ["2.0"] * 19


def test_a_run_records_hyper_parameters_metrics_and_time(boring, make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(logger=logger, log_every_n_steps=1)
    trainer.fit(boring.regression(), boring.loader(8), boring.loader(4))
    assert [row["step"] for row in rows(logger) if row["loss"]] == ["1", "2"]
    assert times(logger) == sorted(times(logger))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for version in (None, 3):
        logger = CSVLogger(tmp_path / "file", version=version)
        with pytest.raises(
            ConfigurationError,
            match=r"cannot make its folder .*: Not a directory; .* default_root_dir$",
        ):
            logger.log_metrics({"loss": 1.0}, step=1)


def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path):
    code = "import sys; from torchrelay.loggers import CSVLogger; print(CSVLogger(sys.argv[1]).version)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [shared_server().popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(process.communicate(timeout=50)[0] for process in running) == [
        f"{number}\n" for number in range(4)
    ]
