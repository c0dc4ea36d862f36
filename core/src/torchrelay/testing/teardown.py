"""After a run nothing of it is left but its results."""

from __future__ import annotations

from typing import Any

from torchrelay.testing.case import Case
from torchrelay.testing.checks import CheckFailed, Program, check, expect

SETTLE = Program("torchrelay.testing.settling:settle", timeout=180)


def _each(case: Case, fact: str) -> list[tuple[int, Any]]:
    """A fact about every process that came to the end of the program."""
    stock = case.outcome.left("stock")
    if not stock:
        raise CheckFailed(f"no process came to its end: {case.outcome.ending}")
    return [(rank, each[fact]) for rank, each in enumerate(stock)]


@check(
    why="a process group that stays makes the next run fail, or meet the wrong processes",
    advice="close the collectives in `teardown`; destroy the group only if the strategy made it",
    program=SETTLE,
)
def no_process_group_is_left(case: Case) -> None:
    """torch.distributed after a fit."""
    for rank, there in _each(case, "group"):
        expect(not there, f"process {rank}: torch.distributed is initialised after the fit")


@check(
    why="threads that every fit adds slow a program down, and can abort it at its end",
    advice="join in `teardown` what was started; let go of wrappers that hold reducers or communicators",
    program=SETTLE,
)
def no_thread_is_left(case: Case) -> None:
    """Threads, native ones too, after the first fit and after the second."""
    for rank, more in _each(case, "threads"):
        expect(not more, f"process {rank}: another fit left the threads {', '.join(more)}")


@check(
    why="descriptors that every fit adds run out",
    advice="close in `teardown` sockets, pipes and files that `setup_environment` or a launcher opened",
    program=SETTLE,
)
def no_file_descriptor_is_left(case: Case) -> None:
    """Open files after the first fit and after the second."""
    for rank, more in _each(case, "files"):
        expect(not more, f"process {rank}: another fit left open {', '.join(more)}")


@check(
    why="temporary files that every run adds fill the disk, and the working directory is the user's",
    advice="make files in a tempfile.TemporaryDirectory and clean it up in `teardown` or at exit",
    program=SETTLE,
)
def no_temporary_file_is_left(case: Case) -> None:
    """The folder of temporary files and the working directory, when the program has ended."""
    left = case.outcome.require_success().left_files
    expect(not left, f"left behind: {', '.join(left[:10])}")


@check(
    why="a process that stays keeps its device, and its memory, from the next run",
    advice="wait in the launcher, or at exit, for every process that was started",
    program=SETTLE,
)
def no_process_is_left(case: Case) -> None:
    """The program's processes when the first has ended."""
    alive = case.outcome.require_success().survivors
    expect(not alive, f"{len(alive)} processes are there after the first had ended")


@check(
    why="after training people evaluate, export or go on with the module by plain torch",
    advice="unwrap the module in `teardown`, remove hooks from its parameters, and move it to the CPU",
    program=SETTLE,
)
def the_module_is_usable(case: Case) -> None:
    """A backward pass of the fitted module, on the CPU, by torch alone."""
    for rank, problem in _each(case, "module"):
        expect(not problem, f"process {rank}: {problem}")
