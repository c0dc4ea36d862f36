"""The conformance kit, with XLA on the processor."""

from __future__ import annotations

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

# The first test that needs a program waits for it, and each program for torch-xla to be imported.
pytestmark = pytest.mark.timeout(300)

SINGLE = Subject("single_tpu", accelerator="tpu")


class TestSingleBasic(BasicTier):
    subject = SINGLE


class TestSingleCapabilities(CapabilityTier):
    subject = SINGLE
