"""Simulated: IPUs, of which each has one owner at a time."""

from __future__ import annotations

import os
from collections.abc import Hashable

NUMBER = "IPU_SIMULATOR_IPUS"
"""Environment variable: how many IPUs the simulated machine has."""

owners: dict[Hashable, int] = {}
"""Who has how many IPUs."""


def installed() -> int:
    """IPUs of the simulated machine."""
    return int(os.environ.get(NUMBER, "2"))


def emulated() -> bool:
    """Whether the vendor's emulator is asked for, which is no hardware."""
    return os.environ.get("POPTORCH_IPU_MODEL", "0") not in ("", "0")


def ipuHardwareIsAvailable(num_ipus=1):
    """Whether a device of so many IPUs is there; never so under the emulator."""
    return not emulated() and num_ipus <= installed()


def ipuHardwareVersion():
    """The generation of the IPUs."""
    assert ipuHardwareIsAvailable(), "No IPU hardware available on this system"
    return 2


def acquire(owner: Hashable, number: int, error: type[Exception]) -> None:
    """Take IPUs that nobody has.

    Raises:
        error: there are not so many.
    """
    if not emulated() and sum(owners.values()) + number > installed():
        raise error(f"Failed to acquire {number} IPU(s)")
    owners[owner] = number


def release(owner: Hashable) -> None:
    """Give them back."""
    owners.pop(owner, None)
