"""Logging on a GPU never waits for it."""

from __future__ import annotations

import pytest
import torch

from torchrelay.collectives import NoCollectives
from torchrelay.trainer.metrics import Metrics

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture
def no_waiting():
    """Makes whatever waits for the device an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


def record(metrics, batches, **options):
    value = torch.ones((), device="cuda")
    for _ in range(batches):
        metrics.in_step, metrics.batch = True, value.expand(4)
        metrics.log("m", value, on_epoch=True, **options)
        value += 1


@pytest.mark.parametrize(
    ("reduce_fx", "expected"), [("mean", 2.0), ("sum", 6.0), ("min", 1.0), ("max", 3.0)]
)
def test_values_stay_on_the_device_until_they_are_read(no_waiting, reduce_fx, expected):
    metrics = Metrics("train", NoCollectives)
    record(metrics, 3, reduce_fx=reduce_fx)
    metrics.close_epoch()
    values = metrics.values()
    torch.cuda.set_sync_debug_mode("default")
    assert all(value.is_cuda for value in values.values())
    assert {name: float(value) for name, value in values.items()} == {
        "m": expected,
        "m_step": 3.0,
        "m_epoch": expected,
    }


def test_memory_does_not_grow_with_the_epoch():
    metrics = Metrics("train", NoCollectives)
    record(metrics, 10)
    before = torch.cuda.memory_allocated()
    record(metrics, 2000)
    assert torch.cuda.memory_allocated() <= before + 1024


def test_a_graph_is_not_kept():
    metrics = Metrics("train", NoCollectives)
    metrics.in_step = True
    weight = torch.ones((), device="cuda", requires_grad=True)
    metrics.log("m", weight * 2, on_epoch=True)
    metrics.close_epoch()
    assert not any(value.requires_grad for value in metrics.values().values())
