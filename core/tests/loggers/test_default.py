from __future__ import annotations

import importlib.util

import pytest

from torchrelay.loggers import CSVLogger, TensorBoardLogger, default_logger


def without_tensorboard(name, package=None, find=importlib.util.find_spec):
    return None if name == "tensorboard" else find(name, package)


def test_tensorboard_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard")
    logger = default_logger(tmp_path)
    assert isinstance(logger, TensorBoardLogger)
    assert (logger.save_dir, logger.name) == (str(tmp_path), "lightning_logs")


def test_csv_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", without_tensorboard)
    logger = default_logger(tmp_path)
    assert isinstance(logger, CSVLogger)
    assert logger.root_dir == str(tmp_path / "lightning_logs")


@pytest.mark.parametrize("hide", [True, False], ids=["csv", "as installed"])
def test_no_folder_before_something_is_logged(tmp_path, monkeypatch, hide):
    if hide:
        monkeypatch.setattr(importlib.util, "find_spec", without_tensorboard)
    logger = default_logger(tmp_path / "root")
    logger.save()
    logger.finalize("success")
    assert not (tmp_path / "root").exists()
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert (tmp_path / "root" / "lightning_logs" / "version_0").is_dir()
