from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from torchrelay.tree import flatten, map_leaves, map_tensors


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass(frozen=True)
class Frozen:
    value: Any
    made: list[Any] = field(default_factory=list, init=False)


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


def test_tensors_inside_every_container() -> None:
    one = torch.ones(2)
    value = [
        one,
        (one, "text", None),
        Point(one, 3),
        {"a": {"b": one}},
        Frozen(one),
        torch.Size([2]),
    ]
    result = map_tensors(value, double)
    two = one * 2
    assert torch.equal(result[0], two)
    assert torch.equal(result[1][0], two)
    assert result[1][1:] == ("text", None)
    assert isinstance(result[2], Point)
    assert torch.equal(result[2].x, two)
    assert result[2].y == 3
    assert torch.equal(result[3]["a"]["b"], two)
    assert isinstance(result[4], Frozen)
    assert torch.equal(result[4].value, two)
    assert result[5] == torch.Size([2])
    assert torch.equal(value[0], one)
    assert torch.equal(value[4].value, one)


@pytest.mark.parametrize(
    "value",
    [OrderedDict(b=1, a=2), defaultdict(list, a=1), UserDict(a=1)],
    ids=lambda value: type(value).__name__,
)
def test_mappings_keep_type_order_and_default(value: Any) -> None:
    result = map_leaves(value, lambda leaf: leaf + 1)
    assert type(result) is type(value)
    assert list(result.items()) == [(key, item + 1) for key, item in value.items()]
    assert getattr(result, "default_factory", None) is getattr(value, "default_factory", None)


def test_packed_sequence_keeps_its_batch_sizes() -> None:
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    result = map_tensors(packed, lambda tensor: tensor.double())
    assert type(result) is type(packed)
    assert result.data.dtype is torch.float64
    assert torch.equal(result.batch_sizes, packed.batch_sizes)


def test_flatten_lists_leaves_and_rebuilds() -> None:
    value = {"a": [1, 2], "b": (3, {"c": 4})}
    leaves, rebuild = flatten(value)
    assert leaves == [1, 2, 3, 4]
    assert rebuild([leaf * 10 for leaf in leaves]) == {"a": [10, 20], "b": (30, {"c": 40})}


def test_a_library_can_register_its_own_container() -> None:
    class Graph:
        def __init__(self, nodes: torch.Tensor) -> None:
            self.nodes = nodes

    @map_leaves.register(Graph)
    def _(value: Graph, fn: Any) -> Graph:
        return Graph(fn(value.nodes))

    assert torch.equal(map_tensors([Graph(torch.ones(1))], double)[0].nodes, torch.full((1,), 2.0))
