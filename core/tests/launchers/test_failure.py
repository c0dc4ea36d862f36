from __future__ import annotations

import pickle
import signal
import time

import pytest

from torchrelay.environments.seat import Seat
from torchrelay.errors import ConfigurationError, LaunchError, WorkerError
from torchrelay.launchers.failure import (
    LAG,
    Failure,
    earliest,
    exit_failure,
    mark,
    read_reports,
    write_report,
)
from torchrelay.launchers.interruption import Interrupted


def seat(folder, rank=1):
    return Seat(rank, rank, 2, 2, 0, "127.0.0.1", 1, 1, str(folder))


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_exception_keeps_the_time_of_its_first_sight():
    error = ValueError("x")
    first = mark(error)
    assert first <= time.monotonic()
    assert mark(error) == first


def test_a_report_holds_the_traceback(tmp_path):
    error = raised(ValueError("the reason itself"))
    seen = mark(error)
    assert write_report(seat(tmp_path), error)
    (report,) = read_reports(tmp_path).values()
    assert (report.rank, report.time) == (1, seen)
    shown = report.to_error()
    assert isinstance(shown, WorkerError)
    assert shown.rank == 1
    assert shown.report.startswith("Traceback")
    assert shown.report.endswith("ValueError: the reason itself\n")
    assert str(pickle.loads(pickle.dumps(shown))) == str(shown)
    assert [path.name for path in tmp_path.iterdir()] == ["rank-1.json"]


def test_a_user_error_is_reported_in_one_line(tmp_path):
    write_report(seat(tmp_path), raised(ConfigurationError("devices=0\nis none")))
    (report,) = read_reports(tmp_path).values()
    shown = report.to_error()
    assert isinstance(shown, WorkerError)
    assert "\n" not in str(shown)
    assert "test_failure.py" in str(shown)
    assert str(shown).endswith("devices=0 is none")
    assert report.repeats(ConfigurationError("devices=0\nis none"))
    assert not report.repeats(ConfigurationError("another"))
    assert not report.repeats(ValueError("devices=0 is none"))


def test_a_launch_error_stays_one(tmp_path):
    write_report(seat(tmp_path), raised(LaunchError("other plugins")))
    shown = read_reports(tmp_path)[1].to_error()
    assert isinstance(shown, LaunchError)
    assert str(shown) == "rank 1: other plugins"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interruption_is_no_failure(tmp_path, error):
    assert not write_report(seat(tmp_path), error)
    assert read_reports(tmp_path) == {}


def test_a_report_that_nobody_waits_for_is_not_lost_silently(tmp_path, capsys):
    assert not write_report(seat(tmp_path / "gone"), raised(ValueError("x")))
    assert "rank 1 cannot leave its report" in capsys.readouterr().err


@pytest.mark.parametrize("alone", [True, False])
def test_a_rank_that_was_asked_to_end_says_nothing_of_a_launcher_that_is_gone(
    tmp_path, capsys, alone
):
    error = Interrupted(signal.SIGTERM, alone=alone)
    assert not write_report(seat(tmp_path / "gone"), error)
    assert capsys.readouterr().err == ""
    assert write_report(seat(tmp_path), error)
    report = read_reports(tmp_path)[1]
    assert report.asked
    again = report.to_interruption()
    assert (again.number, again.code, again.alone) == (signal.SIGTERM, 143, alone)


def test_the_earliest_failure_is_the_cause():
    late, early = Failure(0, 2.0, "", "Exception"), Failure(1, 1.0, "", "Exception")
    assert earliest([late, early]) is early
    assert earliest([]) is None


@pytest.mark.parametrize(
    ("status", "text", "offset"),
    [
        (-signal.SIGKILL, "rank 2 was killed by signal 9 (SIGKILL); ", LAG),
        (-signal.SIGSEGV, "rank 2 was killed by signal 11 (SIGSEGV); ", LAG),
        (-signal.SIGABRT, "rank 2 was killed by signal 6 (SIGABRT); ", 0),
        (-signal.SIGRTMIN - 1, "rank 2 was killed by signal", LAG),
        (3, "rank 2 ended with exit status 3 and left no traceback", LAG),
    ],
)
def test_a_death_without_a_traceback_is_explained(status, text, offset):
    failure = exit_failure(2, status, seen=10.0)
    assert failure.time == 10.0 - offset
    shown = failure.to_error()
    assert isinstance(shown, WorkerError)
    assert shown.rank == 2
    assert str(shown).startswith(text)
    assert shown.report == ""
