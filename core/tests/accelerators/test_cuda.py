from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from torchrelay.accelerators import CUDAAccelerator

needs_gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_it_agrees_with_torch() -> None:
    cuda = CUDAAccelerator()
    assert cuda.is_available() is torch.cuda.is_available()
    assert cuda.count() == torch.cuda.device_count()
    assert cuda.process_group_backend == "nccl"
    assert cuda.device(1) == torch.device("cuda", 1)


def test_teardown_does_not_start_the_driver() -> None:
    code = (
        "import torch; from torchrelay.accelerators import CUDAAccelerator as A; "
        "A().teardown(); A.is_available(); print(torch.cuda.is_initialized())"
    )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stdout.strip() == "False"


class TestWithGPU:
    pytestmark = needs_gpu

    def test_memory_and_teardown(self) -> None:
        cuda = CUDAAccelerator()
        device = cuda.device(0)
        cuda.setup_device(device)
        held = torch.ones(1 << 20, device=device)
        assert cuda.memory_stats(device)["allocated_bytes.all.current"] >= held.nbytes
        del held
        cuda.teardown()
        assert cuda.memory_stats(device)["reserved_bytes.all.current"] == 0
