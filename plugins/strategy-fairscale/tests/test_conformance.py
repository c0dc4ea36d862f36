"""The conformance kit, on the CPU with two processes; fully sharded with the equipment of `scripts/streamless.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(300)

SHARDED = Subject("ddp_sharded", devices=2, accelerator="cpu")
SPAWN = Subject("ddp_sharded_spawn", devices=2, accelerator="cpu")
FULLY = Subject(
    "streamless:StreamlessStrategy",
    devices=2,
    accelerator="cpu",
    python_path=(str(Path(__file__).parent / "scripts"),),
)


class TestShardedBasic(BasicTier):
    subject = SHARDED


class TestShardedCapabilities(CapabilityTier):
    subject = SHARDED


class TestSpawnBasic(BasicTier):
    subject = SPAWN


class TestFullyShardedBasic(BasicTier):
    subject = FULLY


class TestFullyShardedCapabilities(CapabilityTier):
    subject = FULLY
