from __future__ import annotations

import pytest
import torch

from torchrelay.accelerators import MPSAccelerator


def test_it_agrees_with_torch() -> None:
    mps = MPSAccelerator()
    assert mps.is_available() is torch.backends.mps.is_available()
    assert mps.count() == int(mps.is_available())
    assert mps.process_group_backend is None
    assert mps.device(0) == torch.device("mps", 0)
    mps.teardown()


@pytest.mark.mps
@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")
def test_memory() -> None:
    mps = MPSAccelerator()
    held = torch.ones(1 << 20, device=mps.device(0))
    assert mps.memory_stats(mps.device(0))["current_allocated"] >= held.nbytes
