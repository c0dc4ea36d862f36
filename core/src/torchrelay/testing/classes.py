"""The checks as classes of pytest tests, for a vendor to inherit from and leave empty."""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, ClassVar

from torchrelay.testing.checks import Check
from torchrelay.testing.families import all_checks, checks_of
from torchrelay.testing.kit import Kit
from torchrelay.testing.results import Status
from torchrelay.testing.subject import Subject


class ConformanceTests:
    """Base of the classes of tests.

    Override a test to mark it (`pytest.mark.xfail(reason=...)`) and go on by `super()`.
    """

    subject: ClassVar[Subject]
    """What is examined; to be given by the class that inherits."""

    def examine(self, check: Check) -> None:
        """Make a check, and give pytest its result."""
        import pytest

        result = kit_for(self.subject).examine(check)
        if result.status is Status.FAILED:
            pytest.fail(result.message, pytrace=False)
        if result.status is Status.SKIPPED:
            pytest.skip(result.message)
        if result.status is Status.WARNED:
            warnings.warn(result.message, ConformanceWarning, stacklevel=2)


class ConformanceWarning(UserWarning):
    """A check that is new in this release is not passed; in the next one it will fail."""


def kit_for(subject: Subject) -> Kit:
    """The kit of a subject, so that all classes of tests share what its programs left."""
    return _kit(subject.to_json())


@cache
def _kit(subject: str) -> Kit:
    kit = Kit(Subject.from_json(subject))
    atexit.register(kit.close)
    return kit


def tests_of(name: str, checks: Iterable[Check], doc: str) -> type[ConformanceTests]:
    """A class with a test for each check."""
    members: dict[str, Any] = {
        f"test_{check.family}_{check.name}": _test(check) for check in checks
    }
    return type(name, (ConformanceTests,), {"__doc__": doc, "__module__": __name__, **members})


def family_tests(family: str) -> type[ConformanceTests]:
    """A class with the tests of one family, for a vendor who wants each in a class of its own."""
    doc = f"The checks of the family {family}, of both tiers."
    return tests_of(f"{family.capitalize()}Tests", checks_of(family), doc)


def _test(check: Check) -> Callable[[ConformanceTests], None]:
    def test(self: ConformanceTests) -> None:
        self.examine(check)

    test.__doc__ = check.why
    return test


BasicTier = tests_of(
    "BasicTier",
    [each for each in all_checks() if each.capability is None],
    "What every strategy has to do.",
)

CapabilityTier = tests_of(
    "CapabilityTier",
    [each for each in all_checks() if each.capability is not None],
    "What a strategy declares to support, it has to do; what it declares unsupported, it has to refuse.",
)
