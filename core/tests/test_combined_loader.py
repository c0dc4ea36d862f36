from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from torchrelay import CombinedLoader
from torchrelay.errors import ConfigurationError

SHORT, LONG = range(2), range(10, 13)
TOGETHER = {
    "min_size": [(0, 10), (1, 11)],
    "max_size": [(0, 10), (1, 11), (None, 12)],
    "max_size_cycle": [(0, 10), (1, 11), (0, 12)],
}


@pytest.mark.parametrize("mode", TOGETHER)
def test_read_together(mode):
    combined = CombinedLoader({"a": SHORT, "b": [LONG]}, mode)
    expected = [({"a": a, "b": [b]}, i, 0) for i, (a, b) in enumerate(TOGETHER[mode])]
    for _ in range(2):  # it can be read again
        assert list(combined) == expected
    assert len(combined) == len(expected)
    assert [batch for batch, _, _ in expected] == list(combined.batches())


def test_read_one_after_the_other():
    combined = CombinedLoader([SHORT, LONG], "sequential")
    assert list(combined) == [(0, 0, 0), (1, 1, 0), (10, 0, 1), (11, 1, 1), (12, 2, 1)]
    assert len(combined) == 5


def test_the_shorter_one_may_be_first_or_last():
    assert list(CombinedLoader([LONG, SHORT], "max_size_cycle").batches()) == [
        [10, 0],
        [11, 1],
        [12, 0],
    ]


def test_loaders_of_torch_are_loaders_and_not_containers():
    loader = DataLoader(torch.arange(4), batch_size=2)
    assert CombinedLoader((loader, loader)).flattened == [loader, loader]
    assert type(next(iter(CombinedLoader((loader, loader)).batches()))) is tuple


def test_each_may_be_replaced():
    combined = CombinedLoader({"a": SHORT, "b": LONG}, "max_size").map(reversed)
    assert combined.mode == "max_size"
    assert list(combined.batches()) == [{"a": 1, "b": 12}, {"a": 0, "b": 11}, {"a": None, "b": 10}]


@pytest.mark.parametrize(
    ("iterables", "mode", "message"),
    [
        ([SHORT], "longest", "mode='longest'.*must be one of 'min_size'"),
        ([], "min_size", "got no data loader"),
        ({}, "min_size", "got no data loader"),
        ([SHORT, 5], "min_size", "got a int, which is no data loader"),
        ([[torch.ones(2)]], "min_size", r"a Tensor.*DataLoader\(batches, batch_size=None\)"),
    ],
    ids=str,
)
def test_misuse(iterables, mode, message):
    with pytest.raises(ConfigurationError, match=message):
        CombinedLoader(iterables, mode)


def test_what_cannot_be_read_anew_cannot_be_cycled():
    combined = CombinedLoader([iter(SHORT), LONG], "max_size_cycle")
    with pytest.raises(ConfigurationError, match="gave no batch when it was read anew"):
        list(combined)
    with pytest.raises(TypeError):
        len(combined)
