from __future__ import annotations

import pickle
from datetime import timedelta

import pytest

from torchrelay.callbacks import ModelCheckpoint, Timer, timer
from torchrelay.errors import ConfigurationError


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the batches, each of which takes a second."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(timer.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def fit(boring, make_trainer, clock):
    def run(*callbacks, resume=None, **options):
        def training_step(self, batch, batch_idx):
            clock.now += 1
            return self.loss(batch)

        module = boring.regression(training_step=training_step)
        trainer = make_trainer(callbacks=list(callbacks), **{"max_epochs": 3, **options})
        trainer.fit(module, boring.loader(20), boring.loader(4), ckpt_path=resume)
        return trainer

    return run


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"duration": timedelta(seconds=3)}, 3),
        ({"duration": {"seconds": 7}}, 7),
        ({"duration": "00:00:00:07"}, 7),
        ({"duration": " 00:00:00:07\n"}, 7),
        ({"duration": "00:00:01:00"}, 15),
        ({"duration": timedelta(0)}, 0),
        ({"duration": timedelta(seconds=3), "interval": "epoch"}, 5),
        ({}, 15),
    ],
    ids=str,
)
def test_when_training_ends(fit, arguments, steps):
    watch = Timer(**arguments)
    assert fit(watch).global_step == steps
    assert watch.time_elapsed() == steps
    remaining = watch.time_remaining()
    assert remaining == (None if watch.duration is None else watch.duration - steps)


def test_the_minimum_holds(fit):
    assert fit(Timer(timedelta(seconds=3)), min_steps=8).global_step == 8


def test_it_says_why_training_ends(fit, capsys):
    fit(Timer(timedelta(seconds=3)))
    assert capsys.readouterr().err == "training time is up after 0:00:03\n"
    fit(Timer(timedelta(seconds=3), verbose=False))
    assert capsys.readouterr().err == ""


def test_the_time_before_a_resume_counts(fit, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept")
    fit(Timer(timedelta(seconds=7)), keeper)
    again = Timer(timedelta(seconds=10))
    assert fit(again, resume=keeper.best_model_path).global_step == 10
    assert again.time_elapsed() == 10


def test_a_second_fit_begins_anew(fit):
    watch = Timer(timedelta(seconds=4))
    assert [fit(watch).global_step, fit(watch).global_step] == [4, 4]


def test_times_of_stages(fit, clock):
    watch = Timer()
    assert watch.start_time() is watch.end_time() is None
    assert watch.time_elapsed("test") == 0
    fit(watch)
    assert (watch.start_time(), watch.end_time()) == (100.0, 115.0)
    assert watch.start_time("validate") == watch.end_time("validate") == 115.0
    with pytest.raises(ConfigurationError, match="train, validate, test, not 'predict'"):
        watch.time_elapsed("predict")


def test_another_process_has_another_clock(clock):
    watch = Timer()
    watch.on_train_start(None, None)
    clock.now += 5
    assert pickle.loads(pickle.dumps(watch)).time_elapsed() == 5


@pytest.mark.parametrize(
    "duration", ["1h", "0:0:0:5", 60, {"fortnights": 1}, timedelta(seconds=-1)], ids=str
)
def test_durations_that_make_no_sense(duration):
    with pytest.raises(ConfigurationError, match=r"Timer\(duration=.*\): "):
        Timer(duration)


def test_an_interval_that_makes_no_sense():
    with pytest.raises(ConfigurationError, match=r"interval='batch'.: must be 'step' or 'epoch'"):
        Timer(interval="batch")


@pytest.mark.timeout(120)
def test_two_processes_stop_together(boring, make_trainer):
    pytest.importorskip("torchrelay_ddp")
    watch = Timer(timedelta(0))
    trainer = make_trainer(strategy="ddp_fork", devices=2, callbacks=watch, max_epochs=50)
    trainer.fit(boring.regression(), boring.loader(32), boring.loader(8))
    assert trainer.global_step == 0
