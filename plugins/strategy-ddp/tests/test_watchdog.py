"""Ranks that keep others waiting: named, with everybody's stacks, and ended within a bound."""

from __future__ import annotations

import re
import socket
import sys
import time

import pytest

pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]

TIMEOUT = 3.0
BOUND = 3 * TIMEOUT + 12
"""Seconds in which all is over: the timeout, the answers, and the launchers' own ends."""

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)
STARTS = {
    "script": ("ddp", ()),
    "spawn": ("ddp_spawn", ()),
    "torchrun": ("ddp", TORCHRUN),
}
BACKWARD = r"in backward \(call 6\)"


def hang(programs, start, how, rank):
    """Run to the end; what was printed, and how long after the mischief."""
    strategy, launcher = STARTS[start]
    done = programs.run("hangs.py", strategy, how, str(rank), str(TIMEOUT), launcher=launcher)
    took = time.monotonic() - float((programs.folder / "met").read_text())
    assert done.returncode not in (0, None), done.stderr
    assert took < BOUND, done.stderr
    return done.stderr


def pids(programs):
    return [int((programs.folder / f"pid-{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_sleeps(programs, gone, start, rank):
    said = hang(programs, start, "sleeps", rank)
    assert re.search(
        rf"^rank {rank} is not there: it is in training_step \(call 6\), at .*hangs.py:\d+ in sleeps_here, "
        rf"while rank {1 - rank} waited \d+ s {BACKWARD}$",
        said,
        re.MULTILINE,
    ), said
    assert said.count("--- stacks of rank") == 2
    assert "time.sleep(1000)" in said
    assert "in run_backward" in said
    if start != "torchrun":
        assert said.splitlines()[-1].startswith(f"error: rank {rank} is not there"), said
    assert gone(*pids(programs), within=5)


@pytest.mark.parametrize("start", STARTS)
def test_a_rank_that_skips_a_collective(programs, gone, start):
    said = hang(programs, start, "skips", 1)
    assert re.search(
        rf"^rank 1 is not there: it is {BACKWARD}, .*while rank 0 waited \d+ s in barrier 'meeting' "
        r"\(collective \d+\), at .*hangs.py:\d+ in skips_here",
        said,
        re.MULTILINE,
    ), said
    assert gone(*pids(programs), within=5)


@pytest.mark.parametrize("start", STARTS)
def test_a_rank_that_exits_quietly(programs, gone, start):
    said = hang(programs, start, "exits", 1)
    assert "error: rank 1 ended without a word while rank 0 was in backward" in said, said
    if start != "torchrun":
        assert "Traceback" not in said
    assert gone(*pids(programs), within=5)


def test_the_first_rank_that_exits_quietly(programs, gone):
    # Where rank 0 is the program itself, nobody is left to say anything.
    said = hang(programs, "spawn", "exits", 0)
    assert said == "error: rank 0 ended without a word while rank 1 was in backward\n"
    assert gone(*pids(programs), within=5)


@pytest.mark.parametrize("start", ["script", "torchrun"])
def test_a_save_that_only_rank_0_calls(programs, start):
    said = hang(programs, start, "saves", 0)
    assert "rank 1 is not there" in said, said
    assert re.search(r"while rank 0 waited \d+ s in .*, at .*hangs.py:\d+ in saves_here", said)
    assert not (programs.folder / "alone.ckpt").exists()


@pytest.mark.parametrize("start", ["script", "spawn"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped(programs, gone, start, rank):
    said = hang(programs, start, "stops", rank)
    assert f"rank {rank} does not answer" in said, said
    assert re.search(rf"rank {1 - rank} waited \d+ s {BACKWARD}", said)
    assert gone(*pids(programs), within=5)


@pytest.mark.parametrize(("start", "how"), [("script", "together"), ("spawn", "prepares")])
def test_what_is_no_wait_for_another_ends_nothing(programs, start, how):
    strategy, launcher = STARTS[start]
    done = programs.run("hangs.py", strategy, how, "0", "2", launcher=launcher)
    assert (done.returncode, done.stderr) == (0, "")
    assert programs.results("hangs", ranks=1) == [7]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_processes_of_a_cluster_where_rank_0_has_the_store(programs):
    # `mpiexec -n 2 -genv MASTER_PORT PORT`, Hydra.
    job = {"MASTER_PORT": str(free_port()), "MPI_LOCALNRANKS": "2", "PMI_SIZE": "2"}
    processes = [
        programs.start(
            "hangs.py",
            *("ddp", "sleeps", "1", str(TIMEOUT)),
            **{**job, "MPI_LOCALRANKID": str(rank), "PMI_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    ends = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], ends
    (told,) = [text for text in ends if "stacks of rank" in text]
    assert "rank 1 is not there: it is in training_step (call 6)" in told
