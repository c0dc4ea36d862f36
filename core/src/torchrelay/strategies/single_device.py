"""SingleDeviceStrategy: one process, one device. The reference that every other strategy must equal."""

from __future__ import annotations

from typing import Any

import torch

from torchrelay.collectives.collectives import Collectives
from torchrelay.collectives.none import NoCollectives
from torchrelay.strategies.plan import Needs
from torchrelay.strategies.strategy import Strategy


class SingleDeviceStrategy(Strategy):
    """One process, one device.

    Args:
        device: the device; the first of those that the Trainer chose when None.
        components: see `Strategy`.
    """

    def __init__(self, device: torch.device | str | None = None, **components: Any) -> None:
        super().__init__(**components)
        self._device = None if device is None else torch.device(device)

    @property
    def given(self) -> dict[str, object]:
        """The components that the user gave, the device among them."""
        devices = {} if self._device is None else {"devices": [self._device]}
        return {**super().given, **devices}

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        return self._device or self.accelerator.device(self.devices[0])

    def default_collectives(self) -> Collectives:
        """One process has nobody to communicate with."""
        return NoCollectives()

    def refusals(self, needs: Needs) -> list[str]:
        """More than one device or node cannot be had."""
        reasons = super().refusals(needs)
        kind = self.accelerator.device(0).type
        if self.root_device.type != kind:
            reasons.append(
                f"its device={str(self.root_device)!r} is not of accelerator {self.accelerator.name!r}; give "
                "the Trainer the accelerator that it is of"
            )
        if len(self.devices) * needs.num_nodes > 1:
            reasons.append(
                f"devices={len(self.devices)} and num_nodes={needs.num_nodes} ask for several processes and it has "
                'one; take strategy="ddp", or devices=1'
            )
        return reasons
