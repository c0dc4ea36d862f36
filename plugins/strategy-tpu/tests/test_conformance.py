"""The conformance kit, with XLA on the processor: one device, and two in one process."""

from __future__ import annotations

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

# The first test that needs a program waits for it, and each program for torch-xla to be imported.
pytestmark = pytest.mark.timeout(300)

SINGLE = Subject("single_tpu", accelerator="tpu")
SPMD = Subject("tpu_spmd", devices=2, accelerator="tpu")


class TestSingleBasic(BasicTier):
    subject = SINGLE


class TestSingleCapabilities(CapabilityTier):
    subject = SINGLE


class TestSPMDBasic(BasicTier):
    subject = SPMD


class TestSPMDCapabilities(CapabilityTier):
    subject = SPMD
