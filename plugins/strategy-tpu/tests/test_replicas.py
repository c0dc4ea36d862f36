"""Two replicas on XLA:CPU, with test equipment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from torchrelay.testing.programs import environment

pytestmark = pytest.mark.timeout(300)

EQUIPMENT = {"PYTHONPATH": str(Path(__file__).with_name("equipment") / "site")}
CASES = ("sgd", "adamw", "accumulated, clipped", "clipped by value", "ragged")
INEXACT = ("bf16-mixed",)


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


@pytest.mark.parametrize("case", [*CASES, *INEXACT])
def test_replicas_arrive_where_the_processor_does(outcomes, distance, case):
    alone, both = outcomes
    near = 0.05 if case in INEXACT else 5e-6
    assert both[case]["steps"] == alone[case]["steps"]
    assert distance(both[case]["state"], alone[case]["state"]) <= near


def test_replicas_begin_with_what_rank_0_has_to_the_bit(programs):
    first, second = programs.train("apart.py", ranks=2, name="apart", **EQUIPMENT)
    assert float(first["last.bias"]) == 0.5
    assert first["mask"][0, 1] == -torch.inf
    assert first["flags"].tolist() == [True, False]
    for name, value in first.items():
        assert torch.equal(second[name], value), name


def test_replicas_are_processes_that_xla_spawns(programs):
    seats = programs.train(
        "seats.py", "tpu_spawn", "2", "spawn", ranks=2, name="seats", **EQUIPMENT
    )
    assert [each["device"] for each in seats] == ["xla:0", "xla:1"]


def test_one_replica_has_the_device_that_was_asked_for(programs):
    (seat,) = programs.train("seats.py", "tpu_spawn", "[1]", ranks=1, name="seats", **EQUIPMENT)
    assert seat["device"] == "xla:1"


def test_xla_explains_itself_on_request(programs):
    explained = programs.run("seats.py", "tpu_spawn_debug", "2", **EQUIPMENT)
    assert explained.returncode == 0, explained.stderr
    assert "Execution Cause" in explained.stderr


def test_what_xla_says_when_it_cannot_start_them_is_passed_on(programs):
    done = programs.run("seats.py", "tpu_spawn", "2", XLA_USE_SPMD="1", **EQUIPMENT)
    assert done.returncode
    assert "XLA could not start the replicas" in done.stderr
    assert "SPMD" in done.stderr


def test_ctrl_c_ends_replicas_at_once(tmp_path):
    script = Path(__file__).with_name("scripts") / "endless.py"
    variables = environment(OUT=str(tmp_path), **EQUIPMENT)
    program = subprocess.Popen([sys.executable, str(script)], env=variables, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "begun-1.pt").exists():
            assert program.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        replicas = psutil.Process(program.pid).children(recursive=True)
        assert replicas
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait(30)
        psutil.wait_procs(replicas, timeout=10)
        assert not any(each.is_running() for each in replicas)
    finally:
        program.kill()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_replica_s_error_is_the_run_s(programs, rank):
    done = programs.run("mortal.py", "tpu_spawn", str(rank), **EQUIPMENT)
    assert done.returncode not in (0, None)
    assert f"rank {rank} failed first" in done.stderr
    assert "ValueError: the reason itself" in done.stderr
    assert "BrokenProcessPool" not in done.stderr
