from __future__ import annotations

import cProfile
import pickle
import pstats
import sys

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.profilers import AdvancedProfiler


def outer_work():
    return sum(range(1000))


def inner_work():
    return sum(range(1000))


def measured(**arguments):
    profiler = AdvancedProfiler(**arguments)
    for _ in range(3):
        with profiler.profile("outer"):
            outer_work()
            with profiler.profile("inner"):
                inner_work()
            outer_work()
    return profiler


def calls(profile, function):
    found = pstats.Stats(profile).stats
    return sum(value[1] for (_, _, name), value in found.items() if name == function)


def test_functions_count_for_the_innermost_action():
    profiled = measured().profiled_actions
    assert calls(profiled["outer"], "outer_work") == 6
    assert calls(profiled["outer"], "inner_work") == 0
    assert calls(profiled["inner"], "inner_work") == 3
    assert calls(profiled["inner"], "outer_work") == 0


def test_actions_may_overlap():
    profiler = AdvancedProfiler()
    profiler.start("a")
    profiler.start("b")
    profiler.stop("a")
    inner_work()
    profiler.stop("b")
    assert calls(profiler.profiled_actions["b"], "inner_work") == 1
    assert calls(profiler.profiled_actions["a"], "inner_work") == 0


def test_the_report_names_actions_and_functions():
    report = measured().summary()
    assert report.startswith("Profiler Report\nProfile stats for: outer\n")
    inner = report.partition("Profile stats for: inner")[2]
    assert "(inner_work)" in inner
    assert "cumulative time" in inner


def test_an_action_that_goes_on_is_in_no_report():
    profiler = measured()
    with profiler.profile("around"):
        assert "around" not in profiler.summary()
        outer_work()
    assert calls(profiler.profiled_actions["around"], "outer_work") == 1


def listed(report):
    """The functions in the part of the action `inner`."""
    table = report.partition("Profile stats for: inner")[2].partition("filename:lineno(function)")[
        2
    ]
    return len([line for line in table.splitlines() if line.strip()])


def test_so_many_lines():
    whole = listed(measured().summary())
    assert whole > 3
    assert listed(measured(line_count_restriction=2).summary()) == 2
    assert 0 < listed(measured(line_count_restriction=0.5).summary()) < whole


def test_records_are_kept_for_pstats(tmp_path):
    profiler = measured(dirpath=tmp_path, filename="f", dump_stats=True)
    profiler.connect(None, 0)
    profiler.describe()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "f-0-inner.prof",
        "f-0-outer.prof",
        "f-0.txt",
    ]
    assert calls(str(tmp_path / "f-0-outer.prof"), "outer_work") == 6


def test_each_run_begins_anew():
    profiler = measured()
    profiler.setup("fit", 0, None)
    assert not profiler.profiled_actions


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda p: p.stop("a"), r"stop\('a'\): this action was not started"),
        (lambda p: p.start("outer"), r"start\('outer'\): this action is under way"),
        (lambda p: AdvancedProfiler(line_count_restriction=1.5), "line_count_restriction=1.5"),
        (lambda p: AdvancedProfiler(line_count_restriction=0), "line_count_restriction=0"),
        (lambda p: AdvancedProfiler(line_count_restriction="all"), "line_count_restriction='all'"),
        (lambda p: AdvancedProfiler(line_count_restriction=True), "line_count_restriction=True"),
        (lambda p: AdvancedProfiler(dump_stats=1), "dump_stats=1"),
    ],
)
def test_misuse(misuse, message):
    profiler = AdvancedProfiler()
    with profiler.profile("outer"), pytest.raises(ConfigurationError, match=message):
        misuse(profiler)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="Python takes the other profiler's place silently"
)
def test_another_profiler_is_in_the_way():
    other = cProfile.Profile()
    other.enable()
    try:
        with pytest.raises(ConfigurationError, match="leave out the other profiler"):
            AdvancedProfiler().start("a")
    finally:
        other.disable()


def test_records_stay_behind_when_it_travels():
    profiler = pickle.loads(pickle.dumps(measured(line_count_restriction=7)))
    assert not profiler.profiled_actions
    assert profiler.line_count_restriction == 7
