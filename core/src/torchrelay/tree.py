"""Tensors inside containers: batches, metrics, states.

A container is a list, a tuple (named ones too), a mapping that can be copied, or an instance of a dataclass;
anything else is a leaf. A library with a container of its own teaches it to this module::

    @map_leaves.register
    def _(value: Graph, fn: Callable[[Any], Any]) -> Graph: ...

(`torch.utils._pytree` does much the same, but is private to torch and knows no dataclasses by itself.)
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from functools import singledispatch
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence


@singledispatch
def map_leaves(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Apply `fn` to every leaf and return the results in containers of the same types.

    Mappings keep their keys; the input is left alone.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return fn(value)
    result = copy.copy(value)
    for field in dataclasses.fields(value):
        # A frozen dataclass refuses plain assignment, also to the copy that nobody else has seen.
        object.__setattr__(result, field.name, map_leaves(getattr(value, field.name), fn))
    return result


@map_leaves.register
def _tensor(value: torch.Tensor, fn: Callable[[Any], Any]) -> Any:
    return fn(value)


@map_leaves.register
def _list(value: list, fn: Callable[[Any], Any]) -> Any:  # type: ignore[type-arg]
    result = copy.copy(value)
    result[:] = [map_leaves(item, fn) for item in value]
    return result


@map_leaves.register
def _tuple(value: tuple, fn: Callable[[Any], Any]) -> Any:  # type: ignore[type-arg]
    items = [map_leaves(item, fn) for item in value]
    make = getattr(value, "_make", type(value))  # named tuples take their fields one by one
    return make(items)


@map_leaves.register
def _mapping(value: MutableMapping, fn: Callable[[Any], Any]) -> Any:  # type: ignore[type-arg]
    result = copy.copy(value)
    for key, item in value.items():
        result[key] = map_leaves(item, fn)
    return result


@map_leaves.register
def _packed_sequence(value: PackedSequence, fn: Callable[[Any], Any]) -> Any:
    # Its indices follow the data to another device, while its batch sizes stay on the CPU.
    data = fn(value.data)
    return value.to(data.device)._replace(data=data)


def map_tensors(value: Any, fn: Callable[[torch.Tensor], Any]) -> Any:
    """Apply `fn` to every tensor and leave every other leaf as it is."""
    return map_leaves(value, lambda leaf: fn(leaf) if isinstance(leaf, torch.Tensor) else leaf)


def flatten(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """List the leaves of a value.

    Returns:
        The leaves, and a function that puts as many others into the same containers.
    """
    leaves: list[Any] = []

    def take(leaf: Any) -> Any:
        leaves.append(leaf)
        return leaf

    map_leaves(value, take)

    def rebuild(others: list[Any]) -> Any:
        rest: Iterator[Any] = iter(others)
        return map_leaves(value, lambda _: next(rest))

    return leaves, rebuild
