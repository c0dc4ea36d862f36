"""Test equipment: lets the replicas of XLA:CPU, threads of one process, communicate.

XLA:CPU tells which calls of a collective belong together by an id of the compiled module, and each replica compiles a
module of its own. Here one compiles at a time, so that the next finds the first one's module in the cache; all then run
the same one, and mark their steps together. What makes one replica's graph differ from another's still hangs.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

COLLECTIVES = (
    *("all_reduce", "all_gather", "reduce_scatter", "all_to_all"),
    *("collective_permute", "collective_broadcast"),
)

PATIENCE = 60.0
"""Seconds that a replica waits for the others."""


def install() -> None:
    """Put it into torch-xla, which is imported."""
    import torch_xla
    import torch_xla.core.xla_model as xm

    together = Together(torch_xla._XLAC)
    torch_xla._XLAC._xla_step_marker = together.mark
    torch_xla._XLAC._xla_sync_multi = together.sync
    for name in COLLECTIVES:
        setattr(xm, name, together.marking(getattr(xm, name)))


class Together:
    """Replicas that mark their steps together, and compile one after the other.

    Args:
        core: torch-xla's compiled module, with its own functions still.
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        self._step_marker, self._sync_multi = core._xla_step_marker, core._xla_sync_multi
        self._lock = threading.RLock()
        self._barrier = threading.Barrier(int(os.environ.get("CPU_NUM_DEVICES", "1")))

    def drain(self) -> None:
        """Wait for this replica's last execution, which may need the other replica, and with it the lock."""
        core = self._core
        core._xla_wait_device_ops(core._xla_real_devices([core._xla_get_default_device()]))

    def mark(
        self, device: str = "", devices: Any = (), wait: bool = False, reset_scope: bool = True
    ) -> None:
        """Run what is pending."""
        self.drain()
        if self._core._xla_get_replication_devices_count() > 1:
            # One that marks while the other is in a collective does not come back.
            self._barrier.wait(PATIENCE)
        with self._lock:
            self._step_marker(device, list(devices), wait=False, reset_scope=reset_scope)
        if wait:
            self.drain()

    def sync(
        self, tensors: Any, devices: Any = (), wait: bool = True, sync_xla_data: bool = True
    ) -> None:
        """Run what some tensors need."""
        self.drain()
        with self._lock:
            self._sync_multi(tensors, list(devices), wait=False, sync_xla_data=sync_xla_data)
        if wait:
            self.drain()

    def marking(self, collective: Any) -> Any:
        """A collective that runs at once."""

        @functools.wraps(collective)
        def call(*args: Any, **kwargs: Any) -> Any:
            if collective.__name__ == "all_gather":
                # By default it pads by the replica's number, which makes each graph another one.
                kwargs["pin_layout"] = False
            result = collective(*args, **kwargs)
            # Read at once, the result would be waited for with what the other replica needs to get here.
            self.mark(wait=True, reset_scope=False)
            return result

        return call
