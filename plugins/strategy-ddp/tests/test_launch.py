"""How the processes of a run come into being, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

pytestmark = [pytest.mark.timeout(120), pytest.mark.real_interpreters]

PROMPT = 10.0
"""Seconds in which everybody is gone once a rank has failed."""


@pytest.mark.parametrize("command", [("ddp_spawn",), ("ddp_fork", "evaluate")], ids=" ".join)
def test_what_was_reached_comes_back_to_the_caller(programs, distance, command):
    (caller,) = programs.train("comes_back.py", *command, ranks=1, name="caller")
    inside = programs.results("inside")
    for rank in inside:
        assert rank["pid"] != caller["pid"]
        assert distance(rank["fitted"], caller["fitted"]) == 0
    assert distance(caller["initial"], caller["fitted"]) > 1e-3
    assert caller["metrics"].keys() >= {"val_loss", "train_loss"}
    assert caller["metrics"]["val_loss"] == inside[0]["metrics"]["val_loss"]
    assert caller["counted"] == 14
    assert (caller["epoch"], caller["step"]) == (2, 14)
    assert caller["best"] == str(programs.folder / "checkpoints" / os.path.basename(caller["best"]))
    assert os.path.exists(caller["best"])
    assert caller["score"] == pytest.approx(inside[0]["metrics"]["val_loss"])
    if "evaluate" in command:
        # The best checkpoint is what a second launch tests, and its figure comes back as the result.
        assert caller["tested"] == [{"test_loss": pytest.approx(caller["score"])}]
        # Those of all ranks, in the order of the data.
        assert [len(predicted) for predicted in caller["predicted"]] == [4] * 14
        torch.testing.assert_close(torch.cat(caller["predicted"]), caller["expected"])


def test_the_script_runs_again_with_its_arguments_for_every_trainer_in_it(programs):
    # As a module: `python -m` starts the others by `-m` too.
    done = programs.run("-m", "stages", "--name", "two words", "")
    assert done.returncode == 0, done.stderr
    first, second = programs.results("stages")
    assert first["argv"] == second["argv"] == ["--name", "two words", ""]
    assert first["pid"] != second["pid"]
    assert first["interpreter"] == second["interpreter"] == ["-W", "error", "-m", "stages"]
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["tested"] == second["tested"]
    assert first["again"] == second["again"] < first["tested"]
    assert first["world"] == second["world"] == 2
    assert done.stdout.splitlines() == ["printed by one"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("strategy", "place", "rank"),
    [
        ("ddp", "setup", 1),
        ("ddp", "training", 1),
        ("ddp", "validation", 1),
        ("ddp_spawn", "training", 1),
    ],
)
def test_the_rank_that_raises_is_shown_first_and_once(programs, gone, strategy, place, rank):
    done = programs.run("mortal.py", strategy, place, str(rank), "raise")
    ended = time.monotonic()
    assert done.returncode == 1
    assert f"error: rank {rank} failed first" in done.stderr.splitlines()[0], done.stderr
    assert done.stderr.count("ValueError: the reason itself") == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "mortal.py" in done.stderr
    if place != "setup":
        assert gone(*programs.pids(), within=0)
    if place == "training":
        assert ended - float((programs.folder / f"met-{rank}").read_text()) < PROMPT


def test_rank_0_s_own_exception_is_its_traceback(programs, gone):
    done = programs.run("mortal.py", "ddp", "training", "0", "raise")
    assert done.returncode == 1
    assert done.stderr.count("ValueError: the reason itself") == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "rank 1" not in done.stderr
    assert gone(*programs.pids(), within=0)


@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 1), ("ddp_fork", 0)])
def test_a_killed_rank_is_named(programs, gone, strategy, rank):
    done = programs.run("mortal.py", strategy, "training", str(rank), "kill")
    ended = time.monotonic()
    assert done.returncode == 1
    assert f"error: rank {rank} was killed by signal 9 (SIGKILL)" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert gone(*programs.pids(), within=0)
    assert ended - float((programs.folder / f"met-{rank}").read_text()) < PROMPT


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_no_orphan_when_the_parent_is_killed(programs, gone, strategy):
    process = programs.start("mortal.py", strategy, "nowhere", "0", "raise")
    pids = programs.pids()
    assert (process.pid in pids) == (strategy == "ddp")
    process.kill()
    process.wait(10)
    assert gone(*pids)


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_an_interruption_from_the_keyboard_ends_all_quietly(programs, gone, strategy):
    process = programs.start("mortal.py", strategy, "nowhere", "0", "raise")
    pids = programs.pids()
    # As a terminal does it: to every process of the foreground.
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < PROMPT
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.count("torchrelay: fit was interrupted from the keyboard at epoch ") == 1, err
    assert gone(*pids, within=0)


def test_two_runs_at_once_do_not_meet(programs):
    processes: list[subprocess.Popen[str]] = []
    for name in ("one", "other"):
        (programs.folder / name).mkdir()
        processes.append(programs.start("stages.py", name, OUT=str(programs.folder / name)))
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    one, other = (
        [programs.results(f"{name}/stages", ranks=2)[rank] for rank in (0, 1)]
        for name in ("one", "other")
    )
    assert len({result["pid"] for result in (*one, *other)}) == 4
    assert one[0]["port"] != other[0]["port"]
    assert [result["argv"] for result in (*one, *other)] == [["one"], ["one"], ["other"], ["other"]]
    assert len({result["again"] for result in (*one, *other)}) == 1


@pytest.mark.cuda
def test_a_fork_after_cuda_was_used_is_refused(programs):
    done = programs.run("forks_late.py")
    assert done.returncode == 1
    assert (
        "forked processes cannot use CUDA, because this process has initialised it" in done.stderr
    )
    assert 'strategy="ddp_spawn"' in done.stderr
    assert "Traceback" not in done.stderr
