from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.trainer.watchdog import METHODS, VARIABLE, guarding, seconds


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, "90", 90.0),
        (30, "90", 30.0),
        (0.5, None, 0.5),
        (timedelta(minutes=2), None, 120.0),
    ],
)
def test_the_timeout(given, variable, expected):
    assert seconds(given, {} if variable is None else {VARIABLE: variable}) == expected


@pytest.mark.parametrize("given", [0, -1, True, "30", float("nan"), float("inf"), timedelta(0)])
def test_what_is_no_time_is_refused(given, make_trainer):
    with pytest.raises(ConfigurationError, match=r"hang_timeout=.* must be a positive number"):
        make_trainer(hang_timeout=given)


@pytest.mark.parametrize("text", ["0", "soon", "-3"])
def test_the_variable_is_checked_too(text, make_trainer, monkeypatch):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigurationError, match=f"{VARIABLE}='{text}' must be a positive number"):
        make_trainer()


def test_the_trainer_takes_the_variable(make_trainer, monkeypatch):
    assert make_trainer().hang_timeout is None
    monkeypatch.setenv(VARIABLE, "12")
    assert make_trainer().hang_timeout == 12
    assert make_trainer(hang_timeout=3).hang_timeout == 3


def test_barebones_does_without():
    from torchrelay import Trainer

    with pytest.raises(ConfigurationError, match="hang_timeout=3"):
        Trainer(barebones=True, hang_timeout=3)


def test_one_process_is_not_watched(make_trainer):
    strategy = make_trainer(hang_timeout=3).strategy
    threads = threading.enumerate()
    with guarding(3, strategy):
        assert threading.enumerate() == threads
        assert not {*METHODS, "collectives"} & set(vars(strategy))


def test_every_method_that_is_watched_is_there(make_trainer):
    assert all(callable(getattr(make_trainer().strategy, name)) for name in METHODS)
