"""Simulated: 8-bit floats."""

from __future__ import annotations

from habana_frameworks.torch.hpex.experimental.transformer_engine import recipe as recipe
from habana_frameworks.torch.hpex.experimental.transformer_engine.fp8 import fp8_autocast

__all__ = ["fp8_autocast", "recipe"]
