from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.callbacks import DeviceStatsMonitor
from torchrelay.errors import ConfigurationError
from torchrelay.loggers import CSVLogger


def test_figures_before_and_after_the_updates_that_are_logged(boring, make_trainer, tmp_path):
    import csv

    logger = CSVLogger(tmp_path)
    trainer = make_trainer(callbacks=DeviceStatsMonitor(), logger=logger, log_every_n_steps=2)
    trainer.fit(boring.regression(), boring.loader(20), boring.loader(4))
    with open(logger.path, newline="") as file:
        rows = list(csv.DictReader(file))
    for moment in ("start", "end"):
        name = f"DeviceStatsMonitor.on_train_batch_{moment}/peak_rss"
        found = {row["step"]: float(row[name]) for row in rows if row[name]}
        assert list(found) == ["2", "4"]
        assert min(found.values()) > 2**20  # an interpreter with torch takes more than a MiB


def test_none_of_the_hosts_figures(boring, make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    monitor = DeviceStatsMonitor(cpu_stats=False)
    trainer = make_trainer(callbacks=monitor, logger=logger, log_every_n_steps=2)
    trainer.fit(boring.regression(), boring.loader(20), boring.loader(4))
    assert "DeviceStatsMonitor" not in Path(logger.path).read_text()


def test_it_needs_a_logger(boring, make_trainer):
    trainer = make_trainer(callbacks=DeviceStatsMonitor(), logger=False)
    with pytest.raises(ConfigurationError, match="no logger to give figures to; pass"):
        trainer.fit(boring.regression(), boring.loader(), boring.loader())
    trainer.validate(boring.regression(), boring.loader(4))  # which gives no figures anyway


def test_an_argument_that_makes_no_sense():
    with pytest.raises(ConfigurationError, match=r"cpu_stats='yes'.: must be True, False or None"):
        DeviceStatsMonitor(cpu_stats="yes")
