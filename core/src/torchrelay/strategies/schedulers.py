"""What torch's learning-rate schedulers have to be told where a backend updates in a way of its own.

A scheduler watches `step` of the optimizer that it was made with and warns when it has not seen a call. A driver
keeps the order in any case, whereas a backend may update by another optimizer, or by none of torch's.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any

from torch.optim import Optimizer

SEEN = "_opt_called"
"""The mark that a scheduler looks for on an optimizer: it has made an update."""

WATCHED = "_wrapped_by_lr_sched"
"""The mark that a scheduler looks for on an optimizer's `step`: it leaves the first one."""


def expect_updates(schedulers: Iterable[Any]) -> None:
    """Let schedulers take it that updates come before them."""
    for scheduler in _each(schedulers):
        if hasattr(scheduler, "optimizer"):
            setattr(scheduler.optimizer, SEEN, True)


def follow(schedulers: Iterable[Any], old: Optimizer, new: Optimizer) -> None:
    """Let the schedulers of one optimizer steer another that takes its place."""
    for scheduler in _each(schedulers):
        if getattr(scheduler, "optimizer", None) is old:
            scheduler.optimizer = new
            _mark(new)


def _each(schedulers: Iterable[Any]) -> Iterator[Any]:
    """The schedulers, and those that they combine."""
    for scheduler in schedulers:
        yield scheduler
        yield from _each(getattr(scheduler, "_schedulers", ()))


def _mark(optimizer: Any) -> None:
    """Give an optimizer the marks that a scheduler leaves on the one that it is made with."""
    setattr(optimizer, SEEN, True)
    if hasattr(optimizer.step, WATCHED):
        return
    if isinstance(optimizer.step, MethodType):
        optimizer.step = _weak(optimizer.step)
    setattr(optimizer.step, WATCHED, True)


def _weak(method: MethodType) -> Any:
    """A method as a function that does not keep its object alive: an optimizer holds much memory."""
    function, owner = method.__func__, weakref.ref(method.__self__)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(owner(), *args, **kwargs)

    return call
