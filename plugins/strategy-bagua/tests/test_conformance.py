"""The conformance kit on a simulator of Bagua: the accelerator is `bagua_sim`, and the reports say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject
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


def test_the_report_says_simulated():
    kit = Kit(subject("bagua"))
    text = markdown(kit.report(checks=()))
    kit.close()
    assert "bagua_sim" in text
    assert "torchrelay-bagua-simulator" in text
