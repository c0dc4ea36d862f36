"""The conformance kit, on the CPU with two processes that the strategy starts."""

from __future__ import annotations

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(300)

SUBJECT = Subject("horovod", devices=2, accelerator="cpu")


class TestBasic(BasicTier):
    subject = SUBJECT


class TestCapabilities(CapabilityTier):
    subject = SUBJECT
