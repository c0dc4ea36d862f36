"""Two replicas on XLA:CPU, with test equipment."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

EQUIPMENT = {"PYTHONPATH": str(Path(__file__).with_name("equipment") / "site")}
CASES = ("sgd", "adamw", "accumulated, clipped", "clipped by value", "ragged")


@pytest.fixture(scope="module")
def outcomes(shared):
    """What the processor and two replicas arrive at."""
    name = "runs-single_device-cpu"
    (alone,) = shared.train("runs.py", "single_device", "cpu", "1", ranks=1, name=name)
    name = "runs-tpu_spawn-tpu"
    # XLA:CPU cannot sum it between replicas, and threads share torch's default format.
    command = ("runs.py", "tpu_spawn", "tpu", "2", "bf16-true")
    (both,) = shared.train(*command, ranks=1, name=name, **EQUIPMENT)
    return alone, both


@pytest.mark.parametrize("case", CASES)
def test_replicas_arrive_where_the_processor_does(outcomes, distance, case):
    alone, both = outcomes
    assert both[case]["steps"] == alone[case]["steps"]
    assert distance(both[case]["state"], alone[case]["state"]) <= 5e-6


@pytest.mark.parametrize("rank", [0, 1])
def test_a_replica_s_error_is_the_run_s(programs, rank):
    done = programs.run("mortal.py", "tpu_spawn", str(rank), **EQUIPMENT)
    assert done.returncode not in (0, None)
    assert f"rank {rank} failed first" in done.stderr
    assert "ValueError: the reason itself" in done.stderr
    assert "BrokenProcessPool" not in done.stderr
