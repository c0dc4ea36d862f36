"""How the processes of a run come into being, and how they end."""

from __future__ import annotations

import importlib.util
import json
import time

import pytest

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

pytestmark = [pytest.mark.timeout(150), pytest.mark.real_interpreters]

PROMPT = 10.0
"""Seconds in which everybody is gone once a rank has failed."""

CASES = {
    "stage 3": {"module": "Regression", "strategy": "deepspeed_stage_3"},
    "stage 1": {"module": "Regression", "strategy": "deepspeed_stage_1", "do": ["fit", "validate"]},
}


def test_the_script_is_run_again_for_each_rank(programs, distance):
    cases = programs.folder / "cases.json"
    cases.write_text(json.dumps(CASES))
    ranks = programs.train("runs.py", "2", str(cases), name="runs-2")
    (alone,) = programs.train("runs.py", "1", str(cases), ranks=1, name="runs-1")
    for name in CASES:
        for rank in ranks:
            assert distance(rank[name]["state"], alone[name]["state"]) <= 1e-6
            # In a process that nobody has told its rank, nothing is left that would tell.
            assert rank[name]["left"]["environment"]


@pytest.mark.parametrize("stage", [2, 3])
def test_what_was_reached_comes_back_from_spawned_processes(programs, distance, stage):
    (caller,) = programs.train("spawned.py", str(stage), ranks=1, name="caller")
    for inside in programs.results("inside"):
        assert inside["pid"] != caller["pid"]
        assert inside["strategy"] == stage
    assert distance(caller["state"], caller["expected"]) <= 1e-6
    assert caller["metrics"] == pytest.approx(caller["expected_metrics"])
    assert caller["steps"] == 14


@pytest.mark.parametrize(("stage", "rank"), [(2, 1), (3, 0)])
def test_a_rank_that_fails_ends_all(programs, gone, stage, rank):
    done = programs.run("mortal.py", str(stage), str(rank))
    ended = time.monotonic()
    assert done.returncode == 1
    assert done.stderr.count("ValueError: the reason itself") == 1, done.stderr
    assert gone(*programs.pids(), within=0)
    assert ended - float((programs.folder / f"met-{rank}").read_text()) < PROMPT
