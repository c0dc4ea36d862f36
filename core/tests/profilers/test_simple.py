from __future__ import annotations

import pickle
import time

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.profilers import SimpleProfiler


def cells(report, action):
    (line,) = [line for line in report.splitlines() if line.startswith(action)]
    return [float(cell) for cell in line.removeprefix(action).split()]


def measured(**arguments):
    profiler = SimpleProfiler(**arguments)
    for _ in range(2):
        with profiler.profile("outer"):
            time.sleep(0.02)
            with profiler.profile("inner"):
                time.sleep(0.02)
    with profiler.profile("quick"):
        pass
    return profiler


def test_the_extended_table():
    report = measured().summary()
    mean, calls, total, part = cells(report, "outer")
    assert calls == 2
    assert 0.08 <= total < 1
    assert mean == pytest.approx(total / 2, rel=1e-3)
    assert cells(report, "inner")[2] < total
    assert cells(report, "inner")[2] >= 0.04
    whole_calls, whole, _ = cells(
        report.replace("Total   ", "Total  0", 1).replace("-  ", ""), "Total  0"
    )[-3:]
    assert whole_calls == 5
    assert part == pytest.approx(100 * total / whole, rel=0.01)


def test_the_longest_comes_first():
    lines = measured().summary().splitlines()
    assert lines[0] == "Profiler Report"
    assert [line.split()[0] for line in lines[3:]] == ["Total", "outer", "inner", "quick"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_short_table():
    report = measured(extended=False).summary()
    mean, total = cells(report, "outer")
    assert mean == pytest.approx(total / 2, rel=1e-3)
    assert "Percentage" not in report
    assert "Num calls" not in report


def test_without_actions_there_is_a_table_all_the_same():
    assert "Total" in SimpleProfiler().summary()
    assert "Action" in SimpleProfiler(extended=False).summary()


def test_each_run_begins_anew():
    profiler = SimpleProfiler()
    with profiler.profile("around"):
        with profiler.profile("before"):
            pass
        profiler.setup("fit", 0, None)
        with profiler.profile("inside"):
            pass
        assert "before" not in profiler.summary()
        assert "inside" in profiler.summary()
    assert "around" in profiler.summary()


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda p: p.stop("a"), r"stop\('a'\): this action was not started"),
        (lambda p: (p.start("a"), p.start("a")), r"start\('a'\): this action is under way"),
        (lambda p: SimpleProfiler(extended="yes"), "extended='yes' must be True or False"),
    ],
)
def test_misuse(misuse, message):
    with pytest.raises(ConfigurationError, match=message):
        misuse(SimpleProfiler())


def test_it_travels_to_other_processes():
    assert pickle.loads(pickle.dumps(measured())).recorded["outer"].calls == 2
