"""How the processes of a run come into being, and how they end."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = [pytest.mark.timeout(150), pytest.mark.real_interpreters]

PROMPT = 15.0
"""Seconds in which everybody is gone once a rank has failed."""

CASES = {
    "sharded": {"module": "Regression", "strategy": "ddp_sharded", "do": ["fit", "validate"]},
    "units": {"module": "Regression", "strategy": {"min_num_params": 50}},
}


def test_the_script_is_run_again_for_each_rank(programs, distance):
    cases = programs.folder / "cases.json"
    cases.write_text(json.dumps(CASES))
    ranks = programs.train("runs.py", "2", str(cases), name="runs-2")
    (alone,) = programs.train("runs.py", "1", str(cases), ranks=1, name="runs-1")
    for name in CASES:
        for rank in ranks:
            assert distance(rank[name]["state"], alone[name]["state"]) <= 1e-6


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        ("ddp_sharded_spawn", "OSS"),
        ("ddp_sharded_spawn_find_unused_parameters_false", "OSS"),
        ({"min_num_params": 50, "start_method": "spawn"}, "AdamW"),
    ],
    ids=["sharded", "all used", "units"],
)
def test_what_was_reached_comes_back_from_spawned_processes(
    programs, distance, strategy, optimizer
):
    (caller,) = programs.train("spawned.py", json.dumps(strategy), ranks=1, name="caller")
    for inside in programs.results("inside"):
        assert inside["pid"] != caller["pid"]
        assert inside["optimizers"] == [optimizer]
    assert distance(caller["state"], caller["expected"]) <= 1e-5
    assert caller["metrics"] == pytest.approx(caller["expected_metrics"], abs=1e-5)
    assert caller["steps"] == 14


@pytest.mark.parametrize(("strategy", "rank"), [("ddp_sharded", 1), ({"min_num_params": 50}, 0)])
def test_a_rank_that_fails_ends_all(programs, gone, strategy, rank):
    done = programs.run("mortal.py", json.dumps(strategy), "fails", str(rank))
    ended = time.monotonic()
    assert done.returncode == 1
    assert done.stderr.count("ValueError: the reason itself") == 1, done.stderr
    assert gone(*programs.pids(), within=0)
    assert ended - float((programs.folder / f"met-{rank}").read_text()) < PROMPT


@pytest.mark.parametrize(("strategy", "rank"), [("ddp_sharded", 0), ({"min_num_params": 50}, 1)])
def test_a_rank_that_does_not_come_to_consolidate_is_named(programs, gone, strategy, rank):
    done = programs.run("mortal.py", json.dumps(strategy), "saves", str(rank))
    assert done.returncode not in (0, None)
    assert f"rank {1 - rank} is not there" in done.stderr, done.stderr
    assert f"rank {rank} waited 3 s in barrier 'optimizer_state'" in done.stderr, done.stderr
    assert "time.sleep(1000)" in done.stderr
    assert gone(*programs.pids(), within=5)
