"""HPU graphs: submodules that are captured once for each shape while evaluating, and run again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from torchrelay.errors import ConfigurationError
from torchrelay.tree import map_tensors
from torchrelay_hpu import vendor

ADDED = ("forward", "clear_inputs", "clear_cache")
"""What the bridge puts into a module that it wraps."""


def layers(module: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Submodules by name.

    Raises:
        ConfigurationError: there is none of that name.
    """
    known = dict(module.named_modules())
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigurationError(
            f"hpu_graphs names {', '.join(map(repr, missing))}, and {type(module).__name__} has no such submodule; it "
            f"has {', '.join(map(repr, list(known)[1:]))}"
        )
    return [known[name] for name in names]


@contextmanager
def captured(wrapped: Sequence[nn.Module]) -> Iterator[None]:
    """Run modules as graphs for a while; afterwards they are as they were, and graphs are given up."""
    before = [
        {name: each.__dict__[name] for name in ADDED if name in each.__dict__} for each in wrapped
    ]
    try:
        for each in wrapped:
            vendor.in_graph(each)
            _set(each, "forward", _copying(each.forward))
        yield
    finally:
        for each, own in zip(wrapped, before, strict=True):
            for name in ADDED:
                each.__dict__.pop(name, None)
            each.__dict__.update(own)


def _copying(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A graph writes each result into the memory of the first; what it gives away must not change again."""

    @functools.wraps(forward)
    def copying(*args: Any, **kwargs: Any) -> Any:
        return map_tensors(forward(*args, **kwargs), lambda tensor: tensor.clone())

    return copying


def _set(module: nn.Module, name: str, value: Any) -> None:
    module.__dict__[name] = value
