"""Simulated: the machine, and what happens on it in order."""

from __future__ import annotations

import os

NUMBER = "HPU_SIMULATOR_DEVICES"
"""Environment variable: how many HPUs the simulated machine has."""

NAME = "HPU_SIMULATOR_NAME"
"""Environment variable: which generation they are of."""

events: list[str] = []
"""Of this process: "backward", "step", "mark_step", and "ignored mark_step" in eager mode."""


def installed() -> int:
    """HPUs of the simulated machine."""
    return int(os.environ.get(NUMBER, "2"))


def name() -> str:
    """Their generation: "GAUDI" is the first."""
    return os.environ.get(NAME, "GAUDI2")
