"""The conformance kit on a simulator of Habana's bridge: the accelerator is `hpu_sim`, and the reports say so.

In eager mode and in lazy mode, and compared with one process on the processor.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject
from torchrelay.testing.kit import Kit
from torchrelay.testing.publishing import markdown

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(300)


def subject(strategy: str, devices: int, mode: str) -> Subject:
    return Subject(
        strategy,
        devices=devices,
        accelerator="hpu_sim",
        python_path=(str(Path(__file__).parent / "simulator"),),
        variables={"PT_HPU_LAZY_MODE": mode, "HPU_SIMULATOR_DEVICES": "2"},
        reference="cpu",
    )


SINGLE, PARALLEL = subject("hpu_single", 1, "0"), subject("hpu_parallel", 2, "0")
LAZY_SINGLE, LAZY_PARALLEL = subject("hpu_single", 1, "1"), subject("hpu_parallel", 2, "1")


# Both tiers in a class, as they read the same programs: another worker would run them again.


class TestSingle(BasicTier, CapabilityTier):
    subject = SINGLE


class TestParallel(BasicTier, CapabilityTier):
    subject = PARALLEL


class TestLazySingle(BasicTier, CapabilityTier):
    subject = LAZY_SINGLE


class TestLazyParallel(BasicTier, CapabilityTier):
    subject = LAZY_PARALLEL


@pytest.mark.parametrize("examined", [SINGLE, PARALLEL, LAZY_SINGLE, LAZY_PARALLEL], ids=str)
def test_the_report_says_simulated(examined):
    kit = Kit(examined)
    text = markdown(kit.report(checks=()))
    kit.close()
    assert "hpu_sim" in text
    assert "torchrelay-hpu-simulator" in text
