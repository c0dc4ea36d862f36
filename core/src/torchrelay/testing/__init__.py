"""The conformance kit: what every strategy, ours or not, has to do.

A vendor inherits empty classes and runs pytest (extra `testing`)::

    # tests/test_conformance.py
    from torchrelay.testing import BasicTier, CapabilityTier, Subject

    SUBJECT = Subject("acme", devices=2, accelerator="npu")

    class TestBasic(BasicTier):
        subject = SUBJECT

    class TestCapabilities(CapabilityTier):
        subject = SUBJECT

or runs `torchrelay conformance acme --accelerator npu --devices 2 --report conformance`, which needs no
pytest. The *basic* tier is for every strategy. In the *capability* tier what a strategy declares to support is
tested, and what it declares unsupported must be refused, by UnsupportedError with the declared reason.

**New checks.** A minor release may bring checks. Each states that release (`since="0.2"`), throughout which a
strategy that does not pass is only warned; from the next minor release on it fails. A check that is made stricter
counts as new, under a new name. A check may be removed, or made more lenient, in any release. Every check comes
with a deliberately wrong strategy, in the tests, that fails it and no other of its family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.testing.case import Case as Case
    from torchrelay.testing.checks import Check as Check
    from torchrelay.testing.checks import CheckFailed as CheckFailed
    from torchrelay.testing.checks import CheckRefused as CheckRefused
    from torchrelay.testing.checks import CheckSkipped as CheckSkipped
    from torchrelay.testing.checks import Program as Program
    from torchrelay.testing.checks import check as check
    from torchrelay.testing.classes import BasicTier as BasicTier
    from torchrelay.testing.classes import CapabilityTier as CapabilityTier
    from torchrelay.testing.classes import ConformanceTests as ConformanceTests
    from torchrelay.testing.classes import ConformanceWarning as ConformanceWarning
    from torchrelay.testing.classes import family_tests as family_tests
    from torchrelay.testing.context import Context as Context
    from torchrelay.testing.kit import Kit as Kit
    from torchrelay.testing.outcome import Outcome as Outcome
    from torchrelay.testing.results import Report as Report
    from torchrelay.testing.results import Result as Result
    from torchrelay.testing.results import Status as Status
    from torchrelay.testing.subject import Subject as Subject
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "BasicTier": ".classes",
            "CapabilityTier": ".classes",
            "Case": ".case",
            "Check": ".checks",
            "CheckFailed": ".checks",
            "CheckRefused": ".checks",
            "CheckSkipped": ".checks",
            "ConformanceTests": ".classes",
            "ConformanceWarning": ".classes",
            "Context": ".context",
            "Kit": ".kit",
            "Outcome": ".outcome",
            "Program": ".checks",
            "Report": ".results",
            "Result": ".results",
            "Status": ".results",
            "Subject": ".subject",
            "check": ".checks",
            "family_tests": ".classes",
        },
    )
