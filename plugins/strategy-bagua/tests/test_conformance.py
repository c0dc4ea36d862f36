"""The conformance kit on a simulator of Bagua: the accelerator is `bagua_sim`, and the reports say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject, family_tests
from torchrelay.testing.kit import Kit
from torchrelay.testing.publishing import markdown

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(300)

SIMULATOR = (str(Path(__file__).parent / "simulator"),)


def subject(alias):
    return Subject(alias, devices=2, accelerator="bagua_sim", python_path=SIMULATOR)


class TestBagua(BasicTier):
    subject = subject("bagua")


class TestBaguaCapabilities(CapabilityTier):
    subject = subject("bagua")


# The other algorithms promise no exact averages, so that most of the kit's numbers cannot be asked of them, and what
# they promise is in test_ranks.py. QAdam's has an optimizer of its own, which the kit's models have not.


class TestBytegradNumerics(family_tests("numerics")):
    subject = subject("bagua_bytegrad")


class TestDecentralizedComposition(family_tests("composition")):
    subject = subject("bagua_decentralized")


class TestAsyncFailure(family_tests("failure")):
    subject = subject("bagua_async")
    # It compares two runs, and when weights are averaged is a matter of time.
    test_failure_a_second_fit_works = None


def test_the_report_says_simulated():
    kit = Kit(subject("bagua"))
    text = markdown(kit.report(checks=()))
    kit.close()
    assert "bagua_sim" in text
    assert "torchrelay-bagua-simulator" in text
