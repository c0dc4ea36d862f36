"""Metrics over two ranks, which need not have seen the same, nor anything at all."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def validated(shared):
    """What each rank found, when both had batches and when one had none."""
    done = shared.run("logs.py", "whole", "little")
    assert done.returncode == 0, done.stderr
    return {name: shared.results(name) for name in ("whole", "little")}


@pytest.mark.parametrize(
    ("data", "mean", "total"),
    [("whole", sum(range(24)) / 24, float(sum(range(24)))), ("little", 0.0, 0.0)],
)
def test_objects_combine_over_ranks_once_and_begin_anew(validated, data, mean, total):
    for rank in validated[data]:
        for found in rank["found"]:
            assert found["mean"] == found["both_mean"] == found["number"] == pytest.approx(mean)
            assert found["total"] == found["both_sum"] == total


def test_a_number_of_rank_0_alone_is_there_and_nowhere_else(validated):
    for first, second in validated.values():
        assert first["watched"]["first"] == first["found"][0]["first"]
        assert "first" not in second["watched"]


def test_an_object_that_a_rank_cannot_find_is_refused_on_all(programs):
    done = programs.run("logs.py", "unattached")
    assert done.returncode == 1
    assert "log('total', an object): only 1 of 2 ranks have logged it" in done.stderr
    assert "make it an attribute of the module, or name the one it is in" in done.stderr


def test_the_values_of_a_step_are_combined_in_one_exchange(programs):
    first, second = programs.train("logs.py", "steps", name="steps")
    combined = {"mean": 1.5, "sum": 3.0, "min": 1.0, "max": 2.0}
    assert len(first["rows"]) == 4
    for row in first["rows"]:
        assert {name: row[name] for name in combined} == combined
        assert row["local"] == 1.0
    assert second["rows"] == []
    calls = first["calls"]
    assert calls == second["calls"]
    calls = [call for call in calls if call != "reduce"]  # whether somebody was asked to end
    # what only one rank logs costs a second exchange, by name
    before = calls[: calls.index(2)]
    assert before == [0, "all_gather", 1, "all_gather"]
    assert calls[calls.index(3) + 1 :][:2] == ["all_gather", "gather_objects"]
