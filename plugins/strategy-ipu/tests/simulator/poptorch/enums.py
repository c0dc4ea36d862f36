"""Simulated: the enumerations."""

from __future__ import annotations

import enum


class OutputMode(enum.Enum):
    """Which results of a call come back."""

    Final = 0
    EveryN = 1
    All = 2
    Sum = 3
    Default = 4
