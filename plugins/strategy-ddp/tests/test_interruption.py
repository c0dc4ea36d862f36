"""Runs that a signal ends: saved, ended in order, and gone on with as if nothing had happened."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress

import pytest
import torch

from torchrelay.launchers.interruption import REPEAT

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)
STARTS = {
    "alone": ("single_device", "1", ()),
    "script": ("ddp", "2", ()),
    "spawn": ("ddp_spawn", "2", ()),
    "fork": ("ddp_fork", "2", ()),
    "torchrun": ("ddp", "2", TORCHRUN),
}
SCONTROL = """#!/bin/sh
# Test equipment: stands for SLURM's command, and writes down how it was called and what was saved by then.
echo "$@" $(ls "$OUT" | grep 'hpc_ckpt_.*ckpt') >> "$OUT/scontrol-calls"
echo "not permitted" >&2
exit ${SCONTROL_STATUS:-0}
"""
# A job of one task, for which torchrelay starts the processes itself.
JOB = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
LEFT = ["hpc_ckpt_1.ckpt", "hpc_ckpt_job.txt"]


class Case:
    """An interruptible run, started in one of the ways."""

    def __init__(self, programs, start):
        strategy, self.ranks, launcher = STARTS[start]
        self.programs, self.start = programs, start
        self.command, self.options = ("interruptible.py", strategy, self.ranks), {}
        if launcher:
            self.options["launcher"] = launcher

    def begin(self, **variables):
        process = self.programs.start(*self.command, **self.options, **variables)
        self.pids = self.programs.pids(int(self.ranks))
        return process

    def train(self, *ckpt_path, **variables):
        self.end = self.programs.train(
            *(*self.command, *ckpt_path), ranks=1, name="end", **self.options, **variables
        )[0]
        return self.end

    def left(self):
        return sorted(path.name for path in self.programs.folder.glob("hpc_ckpt*"))


@pytest.fixture
def case(programs, request):
    return Case(programs, getattr(request, "param", "alone"))


@pytest.fixture
def uninterrupted(case, tmp_path_factory):
    """Where the same run comes to when nobody interrupts it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    there = type(case.programs)(case.programs.scripts, folder, case.programs.popen)
    other = Case(there, case.start)
    yield other.train()["state"]
    there.close()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def wait(process):
    out, err = process.communicate(timeout=60)
    return out, err


@pytest.mark.parametrize("case", ["alone", "script", "spawn", "torchrun"], indirect=True)
def test_a_run_that_sigterm_ended_goes_on_to_the_same_weights(case, uninterrupted, gone):
    process = case.begin(PAUSE="0.05")
    process.terminate()
    _, err = wait(process)
    # torchrun ends by an exception of its own.
    assert process.returncode == (1 if case.start == "torchrun" else 143), err
    assert err.count("SIGTERM ended the fit at epoch ") == 1, err
    assert 'hpc_ckpt_1.ckpt; go on with fit(..., ckpt_path="hpc")' in err
    if case.start != "torchrun":
        assert len(err.splitlines()) == 1, err
    assert gone(*case.pids, within=0)
    assert case.left() == LEFT
    assert not list(case.programs.folder.glob("end-*"))
    end = case.train("hpc")
    assert same(end["state"], uninterrupted)
    assert end["same_handler"]


@pytest.mark.parametrize("case", ["script", "torchrun"], indirect=True)
def test_the_signal_may_reach_another_rank_alone(case, gone):
    process = case.begin(PAUSE="0.05")
    os.kill(case.pids[1], signal.SIGTERM)
    _, err = wait(process)
    assert process.returncode == (1 if case.start == "torchrun" else 143), err
    assert "SIGTERM ended the fit" in err
    assert gone(*case.pids, within=0)
    assert case.left() == LEFT


@pytest.mark.parametrize("case", ["alone", "script", "spawn", "fork"], indirect=True)
def test_the_signal_may_reach_every_process_at_once(case, gone):
    process = case.begin(PAUSE="0.05", WORKERS="2")
    os.killpg(process.pid, signal.SIGTERM)
    _, err = wait(process)
    assert process.returncode == 143, err
    assert len(err.splitlines()) == 1, err
    assert gone(*case.pids, within=0)
    assert case.left() == LEFT


@pytest.mark.parametrize("case", ["alone", "script", "spawn"], indirect=True)
def test_a_second_sigterm_ends_at_once(case, gone):
    process = case.begin(VALIDATION="never")
    process.terminate()
    time.sleep(REPEAT + 0.5)
    begun = time.monotonic()
    process.terminate()
    process.terminate()
    wait(process)
    assert time.monotonic() - begun < (25 if case.start == "alone" else 10)
    assert process.returncode == -signal.SIGTERM
    assert gone(*case.pids)
    assert case.left() == []


class Unready(Case):
    """A run that does not come to its first update, or of which a rank does not."""

    def begin(self, place, *rank, job=None):
        strategy, ranks = self.command[1:]
        self.process = self.programs.start(
            "unready.py", strategy, ranks, place, *rank, **self.options, **(job or {})
        )
        self.pids = self.programs.pids(int(ranks))
        self.begun = time.monotonic()
        return self.process

    def has_ended(self, gone, number=signal.SIGTERM, status=None):
        """Within seconds, in one line, with nothing saved."""
        _, err = wait(self.process)
        assert time.monotonic() - self.begun < 25
        own = 1 if self.start == "torchrun" else 128 + number
        assert self.process.returncode == (own if status is None else status), err
        name = signal.Signals(number).name
        line = f"torchrelay: {name} ended the fit before it had made an update; nothing is saved"
        assert err.count(f"{line}\n") == 1, err
        if self.start != "torchrun":
            assert "Traceback" not in err, err
            assert len(err.splitlines()) == (1 if status is None else 2), err
        assert gone(*self.pids, within=5)
        assert self.left() == []
        return err


@pytest.fixture
def unready(programs, request):
    return Unready(programs, getattr(request, "param", "alone"))


@pytest.mark.parametrize("place", ["setup", "native", "build", "sanity", "batch"])
@pytest.mark.parametrize("unready", STARTS, indirect=True)
def test_before_the_first_update_sigterm_ends_a_run_within_seconds(unready, gone, place):
    unready.begin(place).terminate()
    unready.has_ended(gone)


@pytest.mark.parametrize("place", ["setup", "native"])
@pytest.mark.parametrize("unready", ["alone", "script", "spawn", "fork"], indirect=True)
def test_before_the_first_update_the_signal_may_reach_every_process_at_once(unready, gone, place):
    os.killpg(unready.begin(place).pid, signal.SIGTERM)
    for pid in unready.pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    unready.has_ended(gone)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("place", ["setup", "native"])
@pytest.mark.parametrize("unready", ["script", "spawn", "torchrun"], indirect=True)
def test_a_rank_that_waits_for_one_in_setup_ends_with_it(unready, gone, place, rank):
    unready.begin(place, rank).terminate()
    unready.has_ended(gone)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("unready", ["script", "spawn", "fork"], indirect=True)
def test_a_signal_to_one_rank_in_setup_ends_the_one_that_waits_for_it(unready, gone, rank):
    unready.begin("setup", str(rank))
    os.kill(unready.pids[rank], signal.SIGTERM)
    unready.has_ended(gone)


@pytest.mark.parametrize("place", ["setup", "native"])
@pytest.mark.parametrize("unready", ["alone", "script", "spawn"], indirect=True)
def test_slurm_queues_a_job_again_that_made_no_update(unready, gone, place):
    unready.begin(place, job=add_scontrol(unready.programs)).send_signal(signal.SIGUSR1)
    err = unready.has_ended(gone, signal.SIGUSR1, status=0)
    assert "the job is queued again: scontrol requeue 77" in err
    assert (unready.programs.folder / "scontrol-calls").read_text() == "requeue 77\n"


@pytest.mark.parametrize("case", ["alone", "script"], indirect=True)
def test_one_process_leaves_validation_and_several_end_after_it(case, uninterrupted):
    process = case.begin(VALIDATION="sent")
    process.terminate()
    (case.programs.folder / "sent").touch()
    _, err = wait(process)
    assert process.returncode == 143, err
    # Several agree on it at an update, which is not to be the next one.
    assert re.search("at epoch 0" if case.start == "alone" else "at epoch [1-9]", err), err
    assert same(case.train("hpc")["state"], uninterrupted)


def add_scontrol(programs):
    command = programs.folder / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(SCONTROL)
    command.chmod(0o755)
    return {"PATH": f"{command.parent}:{os.environ['PATH']}", **JOB}


@pytest.mark.parametrize("case", ["alone", "script", "spawn"], indirect=True)
def test_slurm_queues_the_job_again_and_it_goes_on(case, uninterrupted, gone):
    job = add_scontrol(case.programs)
    process = case.begin(PAUSE="0.05", **job)
    process.send_signal(signal.SIGUSR1)
    _, err = wait(process)
    assert process.returncode == 0, err
    assert "SIGUSR1 ended the fit" in err
    assert "the job is queued again: scontrol requeue 77" in err
    calls = (case.programs.folder / "scontrol-calls").read_text()
    assert calls == "requeue 77 hpc_ckpt_1.ckpt\n"
    assert gone(*case.pids, within=0)
    # SLURM starts the same command again, which names no checkpoint.
    process = case.programs.start(*case.command, **job, SLURM_RESTART_COUNT="1")
    _, err = wait(process)
    assert process.returncode == 0, err
    assert err.count("job 77 was started again and goes on from ") == 1, err
    assert same(case.programs.results("end", 1)[0]["state"], uninterrupted)


def test_what_another_job_has_left_is_no_beginning(case, uninterrupted):
    job = add_scontrol(case.programs)
    process = case.begin(PAUSE="0.05", **job)
    process.send_signal(signal.SIGUSR1)
    wait(process)
    other = {**job, "SLURM_JOB_ID": "78"}
    process = case.programs.start(*case.command, **other, SLURM_RESTART_COUNT="1")
    _, err = wait(process)
    assert process.returncode == 0, err
    assert "job 78 begins anew: " in err
    assert same(case.programs.results("end", 1)[0]["state"], uninterrupted)
    # and a job that was not started again looks for nothing
    process = case.programs.start(*case.command, **job)
    _, err = wait(process)
    assert err == ""


def test_a_job_that_cannot_be_queued_again_says_so(case):
    process = case.begin(PAUSE="0.05", **add_scontrol(case.programs), SCONTROL_STATUS="3")
    process.send_signal(signal.SIGUSR1)
    _, err = wait(process)
    assert process.returncode == 128 + signal.SIGUSR1
    line = "the job is not queued again, 'scontrol requeue 77' failed: not permitted; submit it by hand"
    assert line in err
    assert case.left() == LEFT


def test_sigterm_queues_nothing_again(case):
    process = case.begin(PAUSE="0.05", **add_scontrol(case.programs))
    process.terminate()
    _, err = wait(process)
    assert process.returncode == 143, err
    assert case.left() == LEFT
    assert not (case.programs.folder / "scontrol-calls").exists()


@pytest.mark.parametrize("case", ["alone", "script", "spawn"], indirect=True)
def test_an_interruption_from_the_keyboard_is_one_line(case, gone):
    process = case.begin(PAUSE="0.05")
    os.killpg(process.pid, signal.SIGINT)
    _, err = wait(process)
    assert process.returncode == 130, err
    assert err.count("fit was interrupted from the keyboard") == 1, err
    assert gone(*case.pids, within=0)
