"""What is saved here can be taken up here and elsewhere, and a checkpoint is whole or is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torchrelay.errors import UserError
from torchrelay.testing import precisions
from torchrelay.testing.case import Case
from torchrelay.testing.checks import CheckFailed, Program, check, expect, skip
from torchrelay.testing.comparing import difference
from torchrelay.testing.state_runs import checkpoint_of
from torchrelay.testing.subject import Subject
from torchrelay.testing.training import program_for, reference, require_exact, results

RUNS = "torchrelay.testing.state_runs"
ALONE_WITH_ALL = Program(f"{RUNS}:leave_out", timeout=60)
TEAR = Program(f"{RUNS}:tear", timeout=60)


def _alone(case: Case) -> Program:
    """The uninterrupted run of one process, which leaves a checkpoint."""
    return program_for(case, f"{RUNS}:whole", start="")


def _here(case: Case) -> Program:
    """The subject's uninterrupted run, which leaves a checkpoint; and what it makes of one process's."""
    there = case.run(_alone(case), case.subject.alone())
    return program_for(case, f"{RUNS}:whole", start=str(checkpoint_of(there.folder, "plain")))


def _from_here(case: Case, subject: Subject) -> Any:
    """What another subject comes to from this one's checkpoint."""
    results(case, _here(case), "plain")
    saved = case.run(_here(case)).folder
    program = program_for(case, f"{RUNS}:resume", start=str(checkpoint_of(saved, "plain")))
    found = case.run(program, subject).results("resumed-plain")[0]
    if not isinstance(found, dict):
        raise CheckFailed(f"{subject} cannot go on from it: {found}")
    return found


def _compare(case: Case, got: Any, expected: Any, what: str) -> None:
    seen = difference(got, expected, precisions.tolerance(precisions.best(case)))
    expect(not seen, f"{what}: {seen}")


@check(
    why="long runs are interrupted, and one that goes on otherwise than it would have is another run",
    advice="save and load all that the next step depends on: weights, optimizer, the precision's state; draw no "
    "random numbers of your own",
)
def resume_equals_uninterrupted(case: Case) -> None:
    """With dropout and shuffled data, from the middle of an epoch, under the same strategy."""
    expected = results(case, _here(case), "noisy")[0]
    got = results(case, _here(case), "resumed-noisy")[0]
    _compare(case, got, expected, "resumed in mid-epoch, the run ends otherwise than uninterrupted")


@check(
    why="whoever has a checkpoint of a cluster wants to look at it on one device",
    advice="return model_state and optimizer_state by the names of the user's module, whole on rank 0, without a "
    "wrapper's prefix or a backend's layout",
)
def resumes_on_single_device(case: Case) -> None:
    """What was saved here, weights and optimizer, goes on under single_device."""
    got = _from_here(case, case.subject.alone())
    require_exact(case)
    expected = reference(case, _alone(case), "plain")
    _compare(case, got, expected, "saved here and resumed under single_device")


@check(
    why="what was begun on one device goes on on many",
    advice="take model and optimizer states by the names of the user's module, whoever wrote them, in "
    "load_model_state and load_optimizer_state; renew the backend's own copies",
)
def resumes_from_single_device(case: Case) -> None:
    """What was saved under single_device, weights and optimizer, goes on here."""
    got = results(case, _here(case), "resumed-plain")[0]
    require_exact(case)
    expected = reference(case, _alone(case), "plain")
    _compare(case, got, expected, "saved under single_device and resumed here")


@check(
    why="a job that is queued again may get another number of devices",
    advice="keep nothing in a state that belongs to a rank or to a number of ranks",
    min_ranks=2,
)
def resumes_with_another_world_size(case: Case) -> None:
    """What was saved by all goes on in one process of the same strategy."""
    got = _from_here(case, _smaller(case.subject))
    require_exact(case)
    expected = reference(case, _alone(case), "plain")
    _compare(case, got, expected, f"saved by {case.ranks} processes and resumed by one")


def _smaller(subject: Subject) -> Subject:
    return replace(subject, devices=1, num_nodes=1)


@check(
    why="what follows a save, such as reading the file or ending the job, relies on its being there",
    advice="let save_checkpoint return on every rank only when the file is written, by a barrier after the writing",
)
def saves_are_complete(case: Case) -> None:
    """The file is there, on every rank, when save_checkpoint returns; it is a slow one."""
    for rank, found in enumerate(results(case, _here(case), "waits")):
        expect(found, f"rank {rank}: save_checkpoint returned before the file was there")


@check(
    why="`if rank == 0: save_checkpoint()` hangs a job for the length of a timeout, or saves half of the state",
    advice="let all ranks meet in save_checkpoint, by the strategy's collectives, which hang_timeout watches",
    program=ALONE_WITH_ALL,
    min_ranks=2,
)
def saves_are_collective(case: Case) -> None:
    """One rank stays away; the others do not get past it, and with hang_timeout they say who is missing."""
    outcome = case.outcome
    expect(not outcome.left("saved"), "save_checkpoint returned although one rank had not come")
    expect(not outcome.hung, f"it hung although hang_timeout was set: {outcome.ending}")
    said = f"rank {case.ranks - 1} is not there"
    expect(said in outcome.stderr, f"nobody said {said!r}: {outcome.ending}")


@check(
    why="jobs are killed at any moment, and a torn file in the place of the last good one loses the run",
    advice="write through checkpoint_io, and let that write beside the file and rename",
    program=TEAR,
)
def torn_files_never_appear(case: Case) -> None:
    """The process is killed while it writes over a checkpoint; the one that was there is whole."""
    from torchrelay.checkpoint.torch_io import TorchCheckpointIO

    outcome = case.outcome
    expect(outcome.left("saved-0"), f"not even the first checkpoint was written: {outcome.ending}")
    path = checkpoint_of(outcome.folder, "torn")
    if path.is_dir():
        skip("its checkpoints are folders, of which torch.load cannot tell whether they are whole")
    try:
        kept = TorchCheckpointIO().load_checkpoint(path)
    except UserError as error:
        raise CheckFailed(f"what the kill left at the place of the checkpoint: {error}") from error
    expect(
        kept["global_step"] == 1, f"it is of update {kept['global_step']}, not of the one before"
    )
