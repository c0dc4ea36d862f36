from __future__ import annotations

import pytest
import torch

from torchrelay.collectives import NoCollectives
from torchrelay.errors import ConfigurationError


def test_everything_is_the_identity() -> None:
    alone = NoCollectives()
    value = {"a": torch.ones(2), "b": 3}
    assert (alone.rank, alone.world_size) == (0, 1)
    assert alone.reduce(value) is value
    assert alone.broadcast(value) is value
    assert (alone.all(True), alone.all(False)) == (True, False)
    assert (alone.any(True), alone.any(False)) == (True, False)


def test_gather_adds_the_world_dimension() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    gathered = NoCollectives().all_gather({"x": x, "n": 3})
    assert gathered["x"].shape == (1, 2, 3)
    assert not gathered["x"].requires_grad
    assert torch.equal(gathered["n"], torch.tensor([3]))
    NoCollectives().all_gather(x, sync_grads=True).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3))


def test_unknown_operation_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'avg'; choose one of mean, sum, min, max, product"
    ):
        NoCollectives().reduce(1, "avg")
