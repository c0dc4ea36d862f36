from __future__ import annotations

import math

import pytest
import torch

from torchrelay.trainer.accumulators import ACCUMULATORS, wide

VALUES = [3.0, -1.5, 8.25, 0.5]
WEIGHTS = [1, 2, 3, 4]
EXPECTED = {
    "mean": sum(v * w for v, w in zip(VALUES, WEIGHTS, strict=True)) / 10,
    "sum": sum(VALUES),
    "min": -1.5,
    "max": 8.25,
}


def add(accumulator, value, weight):
    if isinstance(value, torch.Tensor):
        accumulator.add_tensor(value, weight)
    else:
        accumulator.add(value, weight)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(
    "kinds",
    [(float,) * 4, (torch.tensor,) * 4, (float, torch.tensor, torch.tensor, float)],
    ids=["numbers", "tensors", "both"],
)
def test_values_are_combined_as_they_come(name, kinds):
    accumulator = ACCUMULATORS[name]()
    for kind, value, weight in zip(kinds, VALUES, WEIGHTS, strict=True):
        add(accumulator, kind(value), weight)
    result = accumulator.result()
    assert result.dtype is torch.float64
    assert float(result) == pytest.approx(EXPECTED[name], rel=1e-15)


@pytest.mark.parametrize("name", EXPECTED)
def test_ranks_are_combined_as_values_are(name):
    parts = list(zip(VALUES, WEIGHTS, strict=True))
    assert ACCUMULATORS[name].over_ranks(parts) == pytest.approx(EXPECTED[name], rel=1e-15)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["numbers", "tensors"])
def test_nan_stays(name, kind):
    accumulator = ACCUMULATORS[name]()
    for value in (1.0, math.nan, 2.0):
        add(accumulator, kind(value), 1)
    assert math.isnan(accumulator.result())
    assert math.isnan(ACCUMULATORS[name].over_ranks([(1.0, 1), (math.nan, 1), (2.0, 1)]))


@pytest.mark.parametrize("kind", [float, lambda v: torch.tensor(v, dtype=torch.bfloat16)])
def test_long_means_are_exact_to_64_bits(kind):
    accumulator = ACCUMULATORS["mean"]()
    for i in range(5000):
        add(accumulator, kind(float(i % 7)), 32)
    assert float(accumulator.result()) == sum(i % 7 for i in range(5000)) / 5000


def test_a_rank_without_weight_does_not_count_in_a_mean():
    mean = ACCUMULATORS["mean"]
    assert mean.over_ranks([(math.nan, 0), (2.0, 3)]) == 2.0
    assert math.isnan(mean.over_ranks([(1.0, 0)]))
    assert math.isnan(mean().result())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_values_stay_there():
    accumulator = ACCUMULATORS["mean"]()
    accumulator.add_tensor(torch.tensor(2.0, device="cuda"), 1)
    accumulator.add(4.0, 1)
    assert accumulator.result().is_cuda
    assert float(accumulator.result()) == 3.0


def test_wide_is_64_bits_on_the_cpu():
    assert wide(torch.ones((), dtype=torch.float16)).dtype is torch.float64
