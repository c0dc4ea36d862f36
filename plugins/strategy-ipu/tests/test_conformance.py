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


TRACED = pytest.mark.xfail(
    reason="Python in a step runs once, when it is traced, and these checks want it in every step",
    strict=True,
)


class TestBasic(BasicTier):
    subject = SUBJECT

    @TRACED
    def test_loop_hooks_in_order(self):
        super().test_loop_hooks_in_order()

    @TRACED
    def test_failure_a_rank_raises_in_a_step(self):
        super().test_failure_a_rank_raises_in_a_step()

    @TRACED
    def test_failure_a_rank_raises_in_validation(self):
        super().test_failure_a_rank_raises_in_validation()

    @TRACED
    def test_failure_a_rank_runs_out_of_memory(self):
        super().test_failure_a_rank_runs_out_of_memory()

    @TRACED
    def test_failure_a_fit_after_a_failure_works(self):
        super().test_failure_a_fit_after_a_failure_works()


class TestCapabilities(CapabilityTier):
    subject = SUBJECT


def test_the_report_says_simulated():
    kit = Kit(SUBJECT)
    text = markdown(kit.report(checks=()))
    kit.close()
    assert "ipu_sim" in text
    assert "torchrelay-ipu-simulator" in text
