"""Strategies of shapes unlike DDP, and what is trained to compare them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).with_name("shapes")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shape_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shapes() -> dict[str, ModuleType]:
    """The modules of `shapes/`, by name."""
    return {path.stem: load(path.stem) for path in FOLDER.glob("*.py")}


@pytest.fixture(scope="session")
def make_strategy(shapes: dict[str, ModuleType]) -> Callable[[str], Any]:
    """Makes a strategy of a shape, `"single"` being the reference."""
    from torchrelay.strategies import SingleDeviceStrategy

    made = {
        "single": SingleDeviceStrategy,
        "engine": shapes["engine"].EngineStrategy,
        "fused": shapes["fused"].FusedStrategy,
        "fused twice": lambda: shapes["fused"].FusedStrategy(iterations=2),
        "wrapped": shapes["wrapped"].WrappedStrategy,
        "lazy": shapes["lazy"].LazyStrategy,
    }
    return lambda name: made[name]()
