"""The conformance kit, on the CPU with two processes, for each way of starting them."""

from __future__ import annotations

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(300)

DDP = Subject("ddp", devices=2, accelerator="cpu")
SPAWN = Subject("ddp_spawn", devices=2, accelerator="cpu")


class TestDDPBasic(BasicTier):
    subject = DDP


class TestDDPCapabilities(CapabilityTier):
    subject = DDP


class TestSpawnBasic(BasicTier):
    subject = SPAWN


class TestSpawnCapabilities(CapabilityTier):
    subject = SPAWN
