"""When a rank fails, all end soon, the first cause is shown, and the machine is as before."""

from __future__ import annotations

from torchrelay.testing import failing
from torchrelay.testing.case import Case
from torchrelay.testing.checks import Program, check, expect, skip
from torchrelay.testing.machine import is_free
from torchrelay.testing.outcome import Outcome
from torchrelay.testing.training import traces

PROMPT = 10.0
"""Seconds in which everybody is gone once a rank has failed."""

PATIENCE = 60.0
AGAIN = Program("torchrelay.testing.failing:again", timeout=180)
PLACES = ("setup", "step", "validation", "killed", "memory")
FIRST = ("validation",)
"""Where it is rank 0 that fails; elsewhere it is the last."""


def _fails(case: Case, place: str) -> Outcome:
    rank = 0 if place in FIRST else case.ranks - 1
    arguments = {"place": place, "rank": rank, "traced": traces(case)}
    program = Program("torchrelay.testing.failing:fail", arguments, timeout=PATIENCE)
    return case.run(program)


def _shows(case: Case, place: str, cause: str) -> None:
    outcome = _fails(case, place)
    expect(outcome.left("met"), f"no rank came to the place where it was to fail: {outcome.ending}")
    expect(not outcome.hung, f"the other processes go on: {outcome.ending}")
    expect(outcome.status != 0, "the run ended as if nothing had happened, with status 0")
    expect(cause in outcome.stderr, f"{cause!r} is not shown: {outcome.ending}")
    error = outcome.error
    if error is not None:
        expect(cause in error.traceback, f"what is raised is another error: {error.message[-500:]}")


@check(
    why="a rank that cannot be set up must not leave the others waiting for it",
    advice="let exceptions of setup pass; a launcher reports the first cause and ends the others",
)
def a_rank_raises_in_setup(case: Case) -> None:
    """The last rank raises in LightningModule.setup."""
    _shows(case, "setup", failing.CAUSE)


@check(
    why="a rank that fails in a step leaves the others in a collective, from which only the launcher can free them",
    advice="let exceptions of training_step pass; watch the processes, and end the others when one has failed",
)
def a_rank_raises_in_a_step(case: Case) -> None:
    """The last rank raises in a training step; where steps are traced, in the tracing."""
    _shows(case, "step", failing.CAUSE)


@check(
    why="a failure in validation has to end training too",
    advice="let exceptions pass through `stage` and `grad_off`; leave a stage without waiting for other ranks",
)
def a_rank_raises_in_validation(case: Case) -> None:
    """Rank 0 raises in a validation step; where steps are traced, in the tracing."""
    _shows(case, "validation", failing.CAUSE)


@check(
    why="the system kills processes, most often for want of memory, and they say nothing",
    advice="watch exit statuses, and name the rank and the signal in the error",
    min_ranks=2,
)
def a_rank_is_killed(case: Case) -> None:
    """The last rank gets SIGKILL in training."""
    outcome = _fails(case, "killed")
    rank = case.ranks - 1
    expect(outcome.left("met"), f"no rank came to the place where it was to die: {outcome.ending}")
    expect(not outcome.hung, f"the other processes go on: {outcome.ending}")
    expect(outcome.status != 0, "the run ended as if nothing had happened, with status 0")
    said = f"rank {rank}" in outcome.stderr and "SIGKILL" in outcome.stderr
    expect(said, f"rank {rank} and its signal are not named: {outcome.ending}")


@check(
    why="users tell this failure from others by torch.OutOfMemoryError, and make their batches smaller",
    advice="let torch.OutOfMemoryError pass; neither go on without the step nor hide it behind a collective's error",
)
def a_rank_runs_out_of_memory(case: Case) -> None:
    """The last rank raises torch.OutOfMemoryError in a training step; where steps are traced, in the tracing."""
    _shows(case, "memory", failing.OUT_OF_MEMORY)


@check(
    why="processes that outlive a failed run keep its devices and its ports",
    advice="tie launched processes to the launching one, as torchrelay.launchers does; let no helper outlive it",
)
def all_are_gone_in_time(case: Case) -> None:
    """After each of the failures above; one that hangs is judged there."""
    ended = {place: _fails(case, place) for place in PLACES if place != "killed" or case.ranks > 1}
    judged = {place: outcome for place, outcome in ended.items() if not outcome.hung}
    if not judged:
        skip("every failure hangs: see the checks above")
    for place, outcome in judged.items():
        alive = outcome.survivors
        expect(not alive, f"{place}: {len(alive)} processes are there after the first had ended")
        for met in outcome.left("met"):
            seconds = outcome.ended - met
            expect(seconds <= PROMPT, f"{place}: the end came {seconds:.0f} s after the failure")


@check(
    why="variables that a run leaves behind send the next one, or another program, to a cluster that is gone",
    advice="put back in `teardown` what `setup_environment` and launchers have set",
    program=AGAIN,
)
def restores_the_environment(case: Case) -> None:
    """os.environ of the launching process, after a fit and after one that failed."""
    for name in ("environment_after_success", "environment_after_failure"):
        changed = case.outcome.read(name)
        expect(not changed, f"{name.replace('_', ' ')}: {changed}")


@check(
    why="a port that stays taken fails the next run on the machine",
    advice="close stores and sockets at the end, and let no process inherit them",
)
def frees_its_ports(case: Case) -> None:
    """The ports on which ranks met or listened, after a failure in a step."""
    ports = {port for each in _fails(case, "step").left("ports") for port in each}
    taken = sorted(port for port in ports if not is_free(port))
    expect(not taken, f"nobody else can listen on {taken}")


@check(
    why="a script fits several times: folds, sweeps, fine-tuning after training",
    advice="make in `setup` what a run needs, forget it in `teardown`, and keep nothing of a run on the class",
    program=AGAIN,
)
def a_second_fit_works(case: Case) -> None:
    """The same fit again, by another Trainer in the same process."""
    problem = case.outcome.read("second")
    expect(not problem, f"the second fit: {problem}")


@check(
    why="a notebook goes on after a failed cell",
    advice="forget the failed run in `teardown`; where no further launch is possible, raise LaunchError and say so",
    program=AGAIN,
)
def a_fit_after_a_failure_works(case: Case) -> None:
    """A fit after one that failed works, or is refused as a launch."""
    failed = case.outcome.read("failed")
    expect(failing.CAUSE in failed, f"the failing fit ended otherwise: {failed or 'well'}")
    problem = case.outcome.read("third")
    refused = problem.startswith(("LaunchError", "UnsupportedError"))
    expect(not problem or refused, f"the fit after it: {problem}")
