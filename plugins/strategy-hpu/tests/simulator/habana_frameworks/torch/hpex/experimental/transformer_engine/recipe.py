"""Simulated: how scales are found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DelayedScaling:
    """Scales of earlier steps; formats are of no account here."""

    margin: int = 0
    interval: int = 1
