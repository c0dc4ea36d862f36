"""State of the random number generators, as tensors and plain data."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch


def capture() -> dict[str, Any]:
    """State of this process's generators: Python, torch, CUDA if it is in use, NumPy if it is loaded.

    It survives a file that is read with `weights_only=True`.
    """
    version, internal, next_gauss = random.getstate()
    state: dict[str, Any] = {
        "python": [version, list(internal), next_gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        import numpy

        name, keys, position, has_gauss, gauss = cast("tuple[Any, ...]", numpy.random.get_state())
        # NumPy's own arrays and number types are refused by weights_only=True.
        state["numpy"] = [name, keys.tolist(), int(position), int(has_gauss), float(gauss)]
    return state


def restore(state: Mapping[str, Any]) -> None:
    """Take up what `capture` returned; generators that are not in it, or not here, are left alone."""
    if "python" in state:
        version, internal, next_gauss = state["python"]
        random.setstate((version, tuple(internal), next_gauss))
    if "torch" in state:
        torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.device_count():
        for device, generator in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(generator.cpu(), device)
    if "numpy" in state and "numpy" in sys.modules:
        import numpy

        numpy.random.set_state(tuple(state["numpy"]))
