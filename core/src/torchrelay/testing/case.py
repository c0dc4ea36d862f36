"""Case: one check of one subject, as the check's judgement sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchrelay.plugin.records import Offer
from torchrelay.plugin.specs import Capabilities, StrategySpec
from torchrelay.testing.checks import Check, CheckFailed, Program
from torchrelay.testing.outcome import Outcome
from torchrelay.testing.subject import Subject

if TYPE_CHECKING:
    from torchrelay.testing.kit import Kit


class Case:
    """One check of one subject.

    Args:
        kit: runs programs, each once.
        check: what is demanded.
    """

    def __init__(self, kit: Kit, check: Check) -> None:
        self.kit = kit
        self.check = check

    @property
    def subject(self) -> Subject:
        """What is examined."""
        return self.kit.subject

    @property
    def ranks(self) -> int:
        """Number of processes that the subject runs in."""
        return self.kit.ranks

    @property
    def offer(self) -> Offer[StrategySpec] | None:
        """What a plugin declares of the alias; None for a subject that is named by its class."""
        return self.kit.offer

    @property
    def capabilities(self) -> Capabilities:
        """What the strategy declares that it can do."""
        return self.kit.capabilities

    def run(self, program: Program, subject: Subject | None = None) -> Outcome:
        """What became of a program; it runs when it is first asked for.

        Args:
            program: the program.
            subject: what to run it for; `self.subject` when None, `self.subject.alone()` for a reference.
        """
        return self.kit.run(program, subject or self.subject)

    @property
    def outcome(self) -> Outcome:
        """What became of the check's program, however it ended."""
        if self.check.program is None:
            raise CheckFailed("this check has no program")
        return self.run(self.check.program)

    def results(self, name: str) -> list[Any]:
        """What the ranks of the check's program left under a name, by rank.

        Raises:
            CheckFailed: a rank left nothing.
        """
        return self.outcome.results(name)
