"""Accelerator: a kind of device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch


class Accelerator(ABC):
    """What a strategy must know about a kind of device."""

    name: ClassVar[str]

    process_group_backend: ClassVar[str | None] = None
    """Backend of torch.distributed for tensors on this device; None where torch.distributed has none."""

    @staticmethod
    @abstractmethod
    def is_available() -> bool:
        """Whether torch can use such a device in this process."""

    @staticmethod
    @abstractmethod
    def count() -> int:
        """Number of devices that torch sees."""

    @abstractmethod
    def device(self, index: int) -> torch.device:
        """The device of that index."""

    def setup_device(self, device: torch.device) -> None:
        """Make `device` the current one of this process; called once per process, after launch."""

    def memory_stats(self, device: torch.device) -> dict[str, float]:
        """Memory figures in bytes, by names of this accelerator's own."""
        return {}

    def teardown(self) -> None:
        """Give back what the process holds on the device, such as cached memory."""
