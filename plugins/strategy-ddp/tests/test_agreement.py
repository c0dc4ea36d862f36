"""Ranks see different data and must decide alike, or be told that they did not."""

from __future__ import annotations

import math

import pytest

pytestmark = pytest.mark.timeout(150)


def test_learning_rates_metrics_and_stops_are_the_same_on_every_rank(programs, distance):
    done = programs.run("agreement.py", "plateau", "little_validation", "after")
    assert done.returncode == 0, done.stderr
    first, second = programs.results("plateau")
    assert first["lr"] == second["lr"] == 0.1  # rank 0's metric falls, so nobody reduces
    assert distance(first["state"], second["state"]) == 0.0
    first, second = programs.results("little_validation")
    assert first == second
    assert math.isfinite(first["val_loss"])
    first, second = programs.results("after")
    assert first["step"] == second["step"] > 0


def test_a_step_that_one_rank_skips_is_refused(programs):
    done = programs.run("agreement.py", "skipped")
    assert done.returncode == 1
    assert "training_step returning None" in done.stderr
    assert "return a loss multiplied by zero instead" in done.stderr


def test_a_checkpoint_of_another_model_is_refused_before_any_process_is_started(programs):
    done = programs.run("agreement.py", "foreign")
    assert done.returncode == 1
    assert done.stdout.split() == ["rank", "0"]
    (line,) = done.stderr.splitlines()
    assert "does not fit Regression" in line
    assert "other.weight" in line


def test_a_stage_that_only_rank_0_comes_to_is_told_of(programs):
    done = programs.run("agreement.py", "alone")
    assert done.returncode == 1
    assert (
        "rank 1 has come to the end of the program; every rank must come to each launch"
        in done.stderr
    )
