"""What a process is like after it has fitted: what is left, and what the module is good for."""

from __future__ import annotations

import gc
import os
import time
from typing import Any

import torch

from torchrelay.testing.context import Context
from torchrelay.testing.machine import open_files, threads
from torchrelay.testing.models import Regression, loader, samples

SETTLE = 3.0
"""Seconds in which threads may end that have been told to."""


def settle(context: Context) -> None:
    """Fit once to warm up, take stock, fit once more, and take stock again.

    What torch and a launcher keep from the first fit on, for as long as the program runs, is there both times.
    """
    _fit(context)
    before = _stock()
    module = _fit(context)
    after = _settled(before)
    grown = [name for name in after["files"] if name not in before["files"]]
    facts = {
        "group": _has_group(),
        "threads": _more(before["threads"], after["threads"]),
        "files": [f"{name}: {after['files'][name]}" for name in grown][: _surplus(before, after)],
        "module": _usable(module),
    }
    # Every process of a strategy that runs the script again comes here; the caller of others.
    context.leave("stock", os.getpid(), facts)


def _fit(context: Context) -> Regression:
    module = Regression()
    context.trainer(num_sanity_val_steps=1).fit(module, loader(32), loader(16))
    return module


def _stock() -> dict[str, Any]:
    gc.collect()
    return {"threads": threads(), "files": open_files()}


def _settled(before: dict[str, Any]) -> dict[str, Any]:
    """The stock, once nothing is left that was not there before, or when the time is over."""
    deadline = time.monotonic() + SETTLE
    while True:
        after = _stock()
        calm = not _more(before["threads"], after["threads"]) and not _surplus(before, after)
        if calm or time.monotonic() > deadline:
            return after
        time.sleep(0.1)


def _surplus(before: dict[str, Any], after: dict[str, Any]) -> int:
    return max(0, len(after["files"]) - len(before["files"]))


def _more(before: list[str], after: list[str]) -> list[str]:
    """The names that are there more often than before."""
    return [
        f"{name} x {after.count(name) - before.count(name)}"
        for name in sorted(set(after))
        if after.count(name) > before.count(name)
    ]


def _has_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _usable(module: Regression) -> str:
    """What a fitted module cannot do that a fresh one with its weights can; "" if nothing."""
    fresh = Regression()
    if module.state_dict().keys() != fresh.state_dict().keys():
        return f"its state has the names {sorted(module.state_dict())}"
    away = {str(value.device) for value in module.state_dict().values()} - {"cpu"}
    if away:
        return f"its weights are on {', '.join(sorted(away))}"
    fresh.load_state_dict(module.state_dict())
    batch = samples(8).tensors
    try:
        for each in (module, fresh):
            each.zero_grad()
            torch.autograd.backward(each.loss(batch))
    except Exception as error:  # noqa: BLE001 - it is what the check judges
        return f"a backward pass raises {type(error).__name__}: {error}"
    for (name, mine), other in zip(module.named_parameters(), fresh.parameters(), strict=True):
        if mine.grad is None or other.grad is None or not torch.allclose(mine.grad, other.grad):
            return f"the gradient of {name} is not that of a fresh module with the same weights"
    return ""
