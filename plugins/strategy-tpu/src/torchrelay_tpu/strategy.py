"""SingleTPUStrategy: one process, one XLA device."""

from __future__ import annotations

from typing import ClassVar

from torchrelay.plugin import Capabilities
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay_tpu.lazy import LazyDevice
from torchrelay_tpu.plugin import CAPABILITIES


class SingleTPUStrategy(LazyDevice, SingleDeviceStrategy):
    """One process, one XLA device.

    Args:
        device: an XLA device; the first when None.
        components: see `torchrelay.strategies.Strategy`.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES
