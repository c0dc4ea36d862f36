"""How the kit compares what came out with what should have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def difference(got: Any, expected: Any, tolerance: float = 1e-6) -> str:
    """The first difference between two nested values, in words; "" if there is none.

    Tensors are compared by shape and values, whatever their types; containers by kind.

    Args:
        got: what came out.
        expected: what should have.
        tolerance: relative, and absolute.
    """
    if isinstance(expected, torch.Tensor):
        return _tensors(got, expected, tolerance)
    if isinstance(expected, float) and isinstance(got, (int, float)):
        same = abs(got - expected) <= tolerance * max(1.0, abs(expected))
    elif type(got) is not type(expected):
        same = False
    elif isinstance(expected, (Mapping, list, tuple)):
        return _containers(_items(got), _items(expected), tolerance)
    else:
        same = got == expected
    return "" if same else _words(got, expected)


def _items(container: Any) -> dict[Any, Any]:
    return dict(container) if isinstance(container, Mapping) else dict(enumerate(container))


def _containers(got: dict[Any, Any], expected: dict[Any, Any], tolerance: float) -> str:
    if got.keys() != expected.keys():
        return f"items {sorted(got)} instead of {sorted(expected)}"
    for name, value in expected.items():
        seen = difference(got[name], value, tolerance)
        if seen:
            return f"[{name!r}]: {seen}"
    return ""


def _tensors(got: Any, expected: torch.Tensor, tolerance: float) -> str:
    if not isinstance(got, torch.Tensor):
        return _words(got, expected.tolist())
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
    if torch.allclose(got.double(), expected.double(), rtol=tolerance, atol=tolerance):
        return ""
    apart = float((got.double() - expected.double()).abs().max())
    return f"{_short(got.tolist())} instead of {_short(expected.tolist())}, {apart:.3g} apart"


def _words(got: Any, expected: Any) -> str:
    return f"{_short(got)} instead of {_short(expected)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
