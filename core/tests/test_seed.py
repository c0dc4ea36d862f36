from __future__ import annotations

import os
import random

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from torchrelay import seed_everything
from torchrelay.errors import ConfigurationError
from torchrelay.seed import SEED_VARIABLE, WORKERS_VARIABLE, current_seed, seed_workers_of


def draw():
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "0")
    monkeypatch.delenv(SEED_VARIABLE)
    monkeypatch.setenv(WORKERS_VARIABLE, "0")


def test_every_generator_is_seeded():
    draws = []
    for seed in (1, 1, 2):
        assert seed_everything(seed) == seed
        draws.append(draw())
    assert draws[0] == draws[1]
    assert all(one != other for one, other in zip(draws[0], draws[2], strict=True))


def test_launched_processes_learn_of_it():
    assert current_seed() == 0
    seed_everything(7)
    assert os.environ[SEED_VARIABLE] == "7"
    assert current_seed() == 7


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1"])
def test_what_is_no_seed(seed):
    with pytest.raises(ConfigurationError, match=r"must be a whole number from 0 to 2\*\*32 - 1"):
        seed_everything(seed)
    assert SEED_VARIABLE not in os.environ


def test_no_seed_is_the_last_one():
    assert seed_everything() == 0
    seed_everything(7)
    assert seed_everything(None) == 7


class Draws(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def from_workers(rank=0, **options):
    """What each of two workers draws first: of Python, NumPy and torch."""
    loader = DataLoader(Draws(), num_workers=2, batch_size=2, **options)
    seed_workers_of(loader, rank)
    return [[float(values[0]) for values in batch] for batch in loader]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_draw_numbers_of_their_own():
    draws = []
    for rank in (0, 0, 1):
        seed_everything(3, workers=True)
        draws.append(from_workers(rank))
    assert draws[0] == draws[1]
    for generator in range(3):
        drawn = {one[worker][generator] for one in draws for worker in range(2)}
        assert len(drawn) == 4, "two workers of each of two ranks"


def test_a_loader_keeps_its_own_way():
    def mine(worker_id):
        pass

    seed_everything(3, workers=True)
    loader = DataLoader(Draws(), worker_init_fn=mine)
    seed_workers_of(loader, 0)
    assert loader.worker_init_fn is mine


def test_workers_are_left_alone_unless_asked():
    seed_everything(3)
    loader = DataLoader(Draws())
    seed_workers_of(loader, 0)
    assert loader.worker_init_fn is None
