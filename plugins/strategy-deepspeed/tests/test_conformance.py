"""The conformance kit, on the CPU with two processes, where gradients are divided and where parameters are too.

Of stage 2 the basic tier alone, as each tier of each takes minutes; `torchrelay conformance` makes the other checks.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from torchrelay.testing import BasicTier, CapabilityTier, Subject

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

# The first test that needs a program waits for it.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", autouse=True)
def _compiled(shared):
    """What ranks communicate by, which would take the kit's first program longer than it may."""
    cases = shared.folder / "cases.json"
    cases.write_text(json.dumps({"any": {"module": "Regression", "strategy": "deepspeed_stage_2"}}))
    process = shared.start("runs.py", "2", str(cases))
    out, err = process.communicate(timeout=380)
    assert process.returncode == 0, out[-3000:] + err[-6000:]


STAGE_2 = Subject("deepspeed_stage_2", devices=2, accelerator="cpu")
STAGE_3 = Subject("deepspeed_stage_3", devices=2, accelerator="cpu")


class TestStage2Basic(BasicTier):
    subject = STAGE_2


class TestStage3Basic(BasicTier):
    subject = STAGE_3


class TestStage3Capabilities(CapabilityTier):
    subject = STAGE_3
