"""Kit: examines one subject. Each program runs once, whichever checks read it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from torchrelay.errors import UnavailableError, UserError
from torchrelay.plugin.records import Offer
from torchrelay.plugin.registry import get_registry, refresh
from torchrelay.plugin.scan import core_version
from torchrelay.plugin.specs import Capabilities, Declaration, StrategySpec, Support
from torchrelay.plugin.targets import load_target, missing, needs, probe
from torchrelay.testing.case import Case
from torchrelay.testing.checks import Check, CheckFailed, CheckRefused, CheckSkipped, Program, skip
from torchrelay.testing.families import all_checks
from torchrelay.testing.outcome import Outcome
from torchrelay.testing.refusals import judge_refusal
from torchrelay.testing.results import Report, Result, Status
from torchrelay.testing.runner import run_program
from torchrelay.testing.subject import Subject


class Kit:
    """Examines one subject.

    Args:
        subject: what is examined.
        version: the release of the kit, by which new checks only warn; the installed one when None.
    """

    def __init__(self, subject: Subject, version: str | None = None) -> None:
        self.subject = subject
        self.version = version or core_version()
        self._folder = tempfile.TemporaryDirectory(prefix="torchrelay-kit-")
        self._added = [each for each in subject.python_path if each not in sys.path]
        if self._added:
            sys.path[:0] = self._added
            refresh()
        self._outcomes: dict[tuple[str, str, str], Outcome] = {}

    def close(self) -> None:
        """Remove what the programs left."""
        self._folder.cleanup()
        if self._added:
            sys.path[:] = [each for each in sys.path if each not in self._added]
            refresh()

    # --- what is examined -------------------------------------------------------------------------------

    @cached_property
    def accelerator(self) -> str:
        """Name of the accelerator that the subject runs on.

        Raises:
            UserError: there is none of that name.
        """
        if self.subject.accelerator not in ("auto", "gpu"):
            return self.subject.accelerator
        from torchrelay.trainer.trainer import Trainer

        trainer = Trainer(accelerator=self.subject.accelerator, devices=1, logger=False)
        return trainer.strategy.accelerator.name

    @cached_property
    def offer(self) -> Offer[StrategySpec] | None:
        """What a plugin declares of the alias; None for a subject that is named by its class.

        Raises:
            UserError: the alias cannot be had.
        """
        if self.subject.is_class:
            return None
        return get_registry().strategy(self.subject.strategy, self.accelerator)

    @cached_property
    def obstacle(self) -> str:
        """Why the strategy cannot run here, for want of its SDK or its hardware; "" if it can.

        Raises:
            UserError: the alias cannot be had.
        """
        try:
            requires = () if self.offer is None else self.offer.spec.requires
            name = self.accelerator
        except UnavailableError as error:
            return str(error)
        kinds = {each.spec.name: each.spec for each in get_registry().accelerators}
        if missing(requires) or name not in kinds:
            return needs(missing(requires))
        found, wanted = probe(kinds[name]), self.subject.devices if kinds[name].indexed else 1
        if found.count >= wanted:
            return ""
        return f"{self.subject.devices} {name} devices are wanted and there are {found.count}: {found.reason}"

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the strategy declares that it can do.

        Raises:
            UserError: it cannot be loaded.
        """
        if self.offer is not None:
            return self.offer.spec.capabilities
        capabilities: Capabilities = self._class.capabilities
        return capabilities

    @cached_property
    def ranks(self) -> int:
        """Number of processes that the subject runs in.

        Raises:
            UserError: the strategy cannot be loaded.
        """
        described = self.offer.spec if self.offer is not None else self._class
        each = self.subject.devices if described.process_per_device else 1
        return each * self.subject.num_nodes

    @cached_property
    def _class(self) -> Any:
        return load_target(self.subject.strategy)

    # --- examining --------------------------------------------------------------------------------------

    def run(self, program: Program, subject: Subject) -> Outcome:
        """What became of a program for a subject; it runs when it is first asked for."""
        key = (program.target, repr(sorted(program.arguments.items())), subject.to_json())
        if key not in self._outcomes:
            folder = Path(self._folder.name) / f"{len(self._outcomes)}-{program.name}"
            ranks = self.ranks if subject == self.subject else subject.devices * subject.num_nodes
            self._outcomes[key] = run_program(program, subject, folder, ranks)
        return self._outcomes[key]

    def examine(self, check: Check) -> Result:
        """Make one check."""
        begun = time.monotonic()
        status, detail = self._judge(check)
        if status is Status.FAILED and check.only_warns(self.version):
            status = Status.WARNED
        return Result(check, status, detail, time.monotonic() - begun)

    def report(
        self,
        checks: Iterable[Check] | None = None,
        tell: Callable[[Result], object] | None = None,
    ) -> Report:
        """Make several checks.

        Args:
            checks: all of them when None.
            tell: called with each result, as soon as it is there.
        """
        begun, results = time.monotonic(), []
        for each in all_checks() if checks is None else checks:
            results.append(self.examine(each))
            if tell is not None:
                tell(results[-1])
        versions = get_registry().fingerprint()
        return Report(self.subject, results, versions, time.monotonic() - begun)

    def _judge(self, check: Check) -> tuple[Status, str]:
        try:
            self._skip_what_cannot_be(check)
            declared = self._declared(check)
            if declared is not None and declared.support is Support.UNSUPPORTED:
                judge_refusal(check, self, declared)
                return Status.REFUSED, declared.reason
            check.judge(Case(self, check))
        except CheckSkipped as reason:
            return Status.SKIPPED, str(reason)
        except CheckRefused as reason:
            return Status.REFUSED, str(reason)
        except (CheckFailed, UserError) as seen:
            return self._failed(check, str(seen))
        except Exception as error:  # noqa: BLE001 - a strategy may answer a check with anything at all
            return Status.FAILED, f"{type(error).__name__}: {error}"
        return Status.PASSED, ""

    def _skip_what_cannot_be(self, check: Check) -> None:
        """Skip a check for which the SDK, the hardware or processes are wanting; declarations need none."""
        if check.family == "declaration":
            return
        if self.obstacle:
            skip(self.obstacle)
        if check.min_ranks > self.ranks:
            skip(f"needs {check.min_ranks} processes; there is {self.ranks}")

    def _declared(self, check: Check) -> Declaration | None:
        return None if check.capability is None else self.capabilities[check.capability]

    def _failed(self, check: Check, seen: str) -> tuple[Status, str]:
        """A partial capability may be refused here, with the condition that was declared."""
        declared = self._declared(check)
        if declared is not None and declared.support is Support.PARTIAL and declared.reason in seen:
            return Status.REFUSED, declared.reason
        return Status.FAILED, seen
