"""torchrelay's conformance kit."""

from __future__ import annotations

from torchrelay.testing import BasicTier, CapabilityTier, Subject


class TestBasic(BasicTier):
    """What every strategy has to do."""

    subject = Subject("local_sgd", devices=2, accelerator="cpu")


class TestCapabilities(CapabilityTier):
    """What it declares."""

    subject = TestBasic.subject


class TestSimulated(BasicTier):
    """The alias for Acme's devices."""

    subject = Subject("local_sgd_sim", devices=2, accelerator="acme_sim")
