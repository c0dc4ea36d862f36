"""The conformance kit on a simulator of PopTorch: the accelerator is `ipu_sim`, and the reports say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject
from torchrelay.testing.kit import Kit
from torchrelay.testing.publishing import markdown

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(300)

SUBJECT = Subject(
    "ipu_strategy",
    devices=2,
    accelerator="ipu_sim",
    python_path=(str(Path(__file__).parent / "simulator"),),
)


class TestBasic(BasicTier):
    subject = SUBJECT


class TestCapabilities(CapabilityTier):
    subject = SUBJECT


def test_the_report_says_simulated():
    kit = Kit(SUBJECT)
    text = markdown(kit.report(checks=()))
    kit.close()
    assert "ipu_sim" in text
    assert "torchrelay-ipu-simulator" in text
