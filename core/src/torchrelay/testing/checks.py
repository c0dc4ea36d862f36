"""Check: one thing that the kit demands of a strategy, and how it is found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from torchrelay.errors import TorchrelayError
from torchrelay.plugin.specs import Capability

if TYPE_CHECKING:
    from torchrelay.testing.case import Case

KIT_BEGAN = (0, 1)
"""The release in which the kit began: its first checks were demanded at once."""


class CheckFailed(TorchrelayError):  # noqa: N818 - a finding, as a test's failure is
    """A strategy does not do what a check demands; the message says what was seen."""


class CheckSkipped(TorchrelayError):  # noqa: N818 - no error at all
    """A check cannot be made here; the message says why."""


class CheckRefused(TorchrelayError):  # noqa: N818 - as it was declared
    """What a check demands is refused here, under a condition that is declared; the message is the condition."""


@dataclass(frozen=True)
class Program:
    """What runs in fresh processes, once for all checks that read its results.

    Args:
        target: `"package.module:function"`; called with a `Context` in each process that the program starts in.
        arguments: further arguments, by name; JSON.
        timeout: seconds after which it is ended.
        real_interpreter: whether it is no copy of a process that has imported torch, because it looks at what is
            imported.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 90.0
    real_interpreter: bool = False

    @property
    def name(self) -> str:
        """The function's name, for folders."""
        return self.target.rpartition(":")[2]


@dataclass(frozen=True)
class Check:
    """One thing that is demanded of a strategy.

    Args:
        name: unique in its family.
        family: the module that holds it, such as "collectives".
        why: one sentence: what goes wrong for users without it.
        advice: what a vendor should change when it fails.
        judge: looks at what happened; raises `CheckFailed`, `CheckSkipped` or `CheckRefused`.
        program: what runs before it is judged; None if nothing does.
        capability: the capability that it exercises; None for the basic tier. Where that is declared unsupported,
            it is the refusal that is demanded.
        min_ranks: processes that it needs.
        since: the minor release that brought it, in which it only warns.
    """

    name: str
    family: str
    why: str
    advice: str
    judge: Callable[[Case], None]
    program: Program | None = None
    capability: Capability | None = None
    min_ranks: int = 1
    since: str = "0.1"

    @property
    def tier(self) -> str:
        """ "basic", or "capability"."""
        return "basic" if self.capability is None else "capability"

    def only_warns(self, version: str) -> bool:
        """Whether the check is new in the minor release that `version` belongs to."""
        release, since = _minor(version), _minor(self.since)
        return since >= release and since != KIT_BEGAN


def check(
    *,
    why: str,
    advice: str,
    program: Program | None = None,
    capability: Capability | None = None,
    min_ranks: int = 1,
    since: str = "0.1",
) -> Callable[[Callable[[Case], None]], Check]:
    """Make a check of the function that judges it, whose name and module become the check's name and family."""

    def make(judge: Callable[[Case], None]) -> Check:
        return Check(
            name=judge.__name__,
            family=judge.__module__.rpartition(".")[2],
            why=why,
            advice=advice,
            judge=judge,
            program=program,
            capability=capability,
            min_ranks=min_ranks,
            since=since,
        )

    return make


def expect(condition: object, seen: str) -> None:
    """Raise `CheckFailed` with what was seen, unless the condition holds."""
    if not condition:
        raise CheckFailed(seen)


def skip(reason: str) -> NoReturn:
    """Leave a check out, and say why."""
    raise CheckSkipped(reason)


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
