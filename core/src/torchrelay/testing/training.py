"""Programs that train many times in one set of processes, and the comparison with one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.errors import UnsupportedError
from torchrelay.plugin.specs import Capability, Support
from torchrelay.testing import precisions
from torchrelay.testing.case import Case
from torchrelay.testing.checks import CheckFailed, Program, expect, skip
from torchrelay.testing.comparing import difference
from torchrelay.testing.context import Context

BATCH = 4
"""Samples that a rank reads at a time; one process, to compare with, reads those of all ranks."""


@dataclass(frozen=True)
class Raised:
    """The exception that ended a training, in one rank."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Place:
    """A process of the subject, in which trainings run one after the other.

    Args:
        context: the program's.
        rank: which process this is.
        world: how many there are.
        ranks: how many the subject has; one process that is compared with it reads as much data.
        precision: of the trainings.
        lacking: what the subject cannot do, so that one process does not either.
        conditional: what it can do under a condition, and refuses otherwise.
    """

    context: Context
    rank: int
    world: int
    ranks: int
    precision: str
    lacking: frozenset[Capability] = frozenset()
    conditional: frozenset[Capability] = frozenset()

    @property
    def batch_size(self) -> int:
        """Samples that a process reads at a time, so that all together read equally many everywhere."""
        return BATCH * self.ranks // self.world

    def trainer(self, **options: Any) -> Any:
        """A Trainer for the subject."""
        return self.context.trainer(**{"precision": self.precision, **options})

    def attempt(self, name: str, train: Callable[[], Any]) -> None:
        """Leave what a training returns, or the exception that it ends by.

        What is refused before it begins harms nobody; any other failure may end the other processes.
        """
        try:
            self.context.leave(name, self.rank, train())
        except Exception as error:
            self.context.leave(name, self.rank, Raised(type(error).__name__, str(error)))
            if self.world > 1 and not isinstance(error, UnsupportedError):
                raise


def in_each_process(
    context: Context, body: Callable[..., None], settings: Mapping[str, Any], *args: Any
) -> None:
    """Run `body(place, *args)` in every process of the subject, where Trainers find themselves launched already.

    Args:
        context: the program's.
        body: a function at the top level of a module.
        settings: what `program_for` gave.
        args: for the body.
    """
    strategy = context.trainer().strategy
    if strategy.launcher is None:
        _in_place(strategy, body, context, settings, *args)
    else:
        strategy.launcher.launch(_in_place, strategy, body, context, settings, *args)


def _in_place(
    strategy: Any,
    body: Callable[..., None],
    context: Context,
    settings: Mapping[str, Any],
    *args: Any,
) -> None:
    everything = list(Capability)
    lacking, conditional = (
        frozenset(everything[number] for number in settings[name])
        for name in ("lacking", "conditional")
    )
    rank, world = strategy.global_rank, strategy.world_size
    ranks, precision = settings["ranks"], settings["precision"]
    body(Place(context, rank, world, ranks, precision, lacking, conditional), *args)


def program_for(case: Case, target: str, **arguments: Any) -> Program:
    """A program of trainings in the best precision, which one process can run as well.

    Args:
        case: the check of the subject.
        target: a function of a context, `settings` and the arguments.
        arguments: plain data.
    """
    settings = {
        "precision": precisions.best(case),
        "ranks": case.ranks,
        "lacking": _declared(case, Support.UNSUPPORTED),
        "conditional": _declared(case, Support.PARTIAL),
    }
    return Program(target, {**settings, **arguments}, timeout=120)


def _declared(case: Case, support: Support) -> list[int]:
    """The places in `Capability` of those that have such support."""
    declared = case.capabilities
    return [at for at, each in enumerate(Capability) if declared[each].support is support]


def results(case: Case, program: Program, name: str) -> list[Any]:
    """What each rank left of a training that went well.

    Raises:
        CheckFailed: it did not.
    """
    found = case.run(program).results(name)
    for rank, each in enumerate(found):
        if isinstance(each, Raised):
            raise CheckFailed(f"rank {rank} of {case.ranks}: {each}")
    return found


def reference(case: Case, program: Program, name: str) -> Any:
    """What one process came to, which runs the same program."""
    [found] = case.run(program, case.subject.alone()).results(name)
    if isinstance(found, Raised):
        raise CheckFailed(f"one process, to compare with, failed: {found}")
    return found


def judge(
    case: Case,
    program: Program,
    name: str,
    *,
    tolerance: float | None = None,
    like: str | None = None,
) -> None:
    """Demand that rank 0 came to what one process came to.

    Args:
        case: the check of the subject.
        program: the trainings.
        name: of the training.
        tolerance: that of the precision when None.
        like: the training of one process that it is compared with; the same when None.

    Raises:
        CheckFailed: it came to something else, or failed.
        CheckSkipped: it is not meant to.
    """
    [first, *_] = results(case, program, name)
    require_exact(case)
    near = precisions.tolerance(precisions.best(case)) if tolerance is None else tolerance
    seen = difference(first, reference(case, program, like or name), near)
    expect(not seen, f"{case.ranks} ranks came to other numbers than one process: {seen}")


def traces(case: Case) -> bool:
    """Whether the strategy declares that the Python of a step runs only when it is traced."""
    return case.capabilities[Capability.EAGER_STEPS].support is Support.UNSUPPORTED


def require(case: Case, capability: Capability) -> None:
    """Leave the check out for a strategy that declares that it has not got what the check needs besides.

    Raises:
        CheckSkipped: it declares that.
    """
    declared = case.capabilities[capability]
    if declared.support is Support.UNSUPPORTED:
        skip(f"{capability.value}: {declared.reason}")


def require_exact(case: Case) -> None:
    """Leave the check out for a strategy whose numbers are other ones by design.

    Raises:
        CheckSkipped: it declares that.
    """
    declared = case.capabilities[Capability.EXACT_AVERAGING]
    if declared.support is not Support.FULL:
        skip(f"{Capability.EXACT_AVERAGING.value}: {declared.reason}")
