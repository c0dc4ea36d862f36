"""The conformance kit, with XLA on the processor: one device, two in one process, and two replicas.

Replicas need test equipment there, which is named in `EQUIPMENT` and reported with the results.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

# The first test that needs a program waits for it, and each program for torch-xla to be imported.
pytestmark = pytest.mark.timeout(300)

SINGLE = Subject("single_tpu", accelerator="tpu")
SPMD = Subject("tpu_spmd", devices=2, accelerator="tpu")
EQUIPMENT = Path(__file__).with_name("equipment") / "site"
REPLICAS = Subject("tpu_spawn", devices=2, accelerator="tpu", python_path=(str(EQUIPMENT),))


class TestSingleBasic(BasicTier):
    subject = SINGLE


class TestSingleCapabilities(CapabilityTier):
    subject = SINGLE


class TestSPMDBasic(BasicTier):
    subject = SPMD


class TestSPMDCapabilities(CapabilityTier):
    subject = SPMD


class TestReplicasBasic(BasicTier):
    subject = REPLICAS


class TestReplicasCapabilities(CapabilityTier):
    subject = REPLICAS
