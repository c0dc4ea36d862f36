from __future__ import annotations

import csv

import pytest

from torchrelay.callbacks import ThroughputMonitor, throughput_monitor
from torchrelay.errors import ConfigurationError
from torchrelay.loggers import CSVLogger


class Rows:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.rows = {}

    def log_metrics(self, metrics, step):
        found = {name: value for name, value in metrics.items() if name.startswith("train")}
        if found:
            self.rows[step] = found


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for batches, of which each takes a second, validation's ten."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(throughput_monitor.time, "perf_counter", lambda: Clock.now)
    return Clock


@pytest.fixture
def fit(boring, make_trainer, clock):
    def run(monitor, **options):
        def training_step(self, batch, batch_idx):
            clock.now += 1 if self.global_step < 4 else 2
            return self.loss(batch)

        def validation_step(self, batch, batch_idx):
            clock.now += 10

        module = boring.regression(training_step=training_step, validation_step=validation_step)
        rows = Rows()
        options = {"log_every_n_steps": 2, "max_epochs": 2, "logger": rows, **options}
        make_trainer(callbacks=monitor, **options).fit(module, boring.loader(16), boring.loader(8))
        return rows.rows

    return run


def test_what_training_takes_without_validation(fit):
    rows = fit(ThroughputMonitor(lambda batch: len(batch[0])))
    assert list(rows) == [2, 4, 6, 8]
    assert rows[4] == {
        "train/time": 4.0,
        "train/batches": 4,
        "train/samples": 16,
        "train/device/batches_per_sec": 1.0,
        "train/device/samples_per_sec": 4.0,
    }
    assert rows[8]["train/time"] == 12.0
    assert rows[8]["train/device/batches_per_sec"] == pytest.approx(8 / 12)


def test_a_window_of_the_latest(fit):
    rows = fit(ThroughputMonitor(lambda batch: len(batch[0]), window_size=2))
    assert rows[8]["train/device/batches_per_sec"] == 0.5
    assert rows[8]["train/device/samples_per_sec"] == 2.0


def test_items_and_names(fit):
    monitor = ThroughputMonitor(lambda b: len(b[0]), lambda b: b[0].numel(), separator="-")
    rows = fit(monitor)
    assert rows[2]["train-lengths"] == 32
    assert rows[2]["train-device-items_per_sec"] == 16.0


@pytest.mark.timeout(120)
def test_all_ranks_together(boring, make_trainer, tmp_path):
    pytest.importorskip("torchrelay_ddp")
    trainer = make_trainer(
        strategy="ddp_fork",
        devices=2,
        callbacks=ThroughputMonitor(lambda batch: len(batch[0])),
        logger=CSVLogger(tmp_path),
        log_every_n_steps=2,
    )
    trainer.fit(boring.regression(), boring.loader(16))
    (path,) = tmp_path.rglob("metrics.csv")
    with open(path, newline="") as file:
        row = [row for row in csv.DictReader(file) if row["train/samples"]][-1]
    assert float(row["train/samples"]) == 8
    here, all_ = (float(row[f"train/{name}samples_per_sec"]) for name in ("device/", ""))
    assert all_ == pytest.approx(2 * here)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch_size_fn": 4}, "batch_size_fn=4.: must be a function"),
        ({"window_size": 1}, "window_size=1.: must be a whole number from 2"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(arguments, match):
    with pytest.raises(ConfigurationError, match=match):
        ThroughputMonitor(**{"batch_size_fn": len, **arguments})


def test_it_needs_a_logger(boring, make_trainer):
    with pytest.raises(ConfigurationError, match="ThroughputMonitor has no logger"):
        make_trainer(callbacks=ThroughputMonitor(len), logger=False).fit(
            boring.regression(), boring.loader()
        )
