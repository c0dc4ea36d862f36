"""Simulated: lazy or eager, decided once."""

from __future__ import annotations

import os


def is_lazy():
    """Whether operations are collected into graphs; what the environment said the first time counts."""
    if is_lazy._is_lazy is None:
        is_lazy._is_lazy = os.getenv("PT_HPU_LAZY_MODE", "1") != "0"
    return is_lazy._is_lazy


is_lazy._is_lazy = None
