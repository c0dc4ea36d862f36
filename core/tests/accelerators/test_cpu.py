from __future__ import annotations

import os

import torch

from torchrelay.accelerators import CPUAccelerator


def test_it_is_always_there() -> None:
    cpu = CPUAccelerator()
    assert cpu.name == "cpu"
    assert cpu.process_group_backend == "gloo"
    assert cpu.is_available()
    assert 1 <= cpu.count() <= (os.cpu_count() or 1)
    assert cpu.device(3) == torch.device("cpu")
    cpu.setup_device(cpu.device(0))
    cpu.teardown()


def test_memory_grows_with_what_the_process_holds() -> None:
    cpu = CPUAccelerator()
    before = cpu.memory_stats(cpu.device(0))
    held = torch.ones(64, 1024, 1024, dtype=torch.uint8)
    after = cpu.memory_stats(cpu.device(0))
    assert after["peak_rss"] >= held.numel()
    if "rss" in before:
        assert after["rss"] - before["rss"] > held.numel() / 2
        assert after["peak_rss"] >= after["rss"] * 0.9
