from __future__ import annotations

import os
import random

import numpy
import pytest
import torch

from torchrelay import seed_everything
from torchrelay.errors import ConfigurationError
from torchrelay.seed import SEED_VARIABLE, current_seed


def draw():
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "0")
    monkeypatch.delenv(SEED_VARIABLE)


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


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1", None])
def test_what_is_no_seed(seed):
    with pytest.raises(ConfigurationError, match=r"must be a whole number from 0 to 2\*\*32 - 1"):
        seed_everything(seed)
    assert SEED_VARIABLE not in os.environ
