"""Test equipment: lets the replicas of XLA:CPU, threads of one process, communicate.

XLA:CPU tells which calls of a collective belong together by an id of the compiled module, and each replica compiles a
module of its own. Here a collective runs at once, with what is pending: the replicas meet, and one of them goes ahead
until it has compiled, so that the others find its module in the cache. What makes one replica's graph differ from
another's still hangs; so does XLA's choice of the buffers that a graph overwrites, which is part of what it is found by
and differs at times: `site` sets XLA_ENABLE_PARAM_ALIASING=0. Between collectives each replica syncs as it likes.
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

POLL, GRACE = 0.002, 2.0
"""Seconds between looks at how far the first one is, and from what it has compiled to where the cache has it."""


def install() -> None:
    """Put it into torch-xla, which is imported."""
    import torch_xla
    import torch_xla.core.xla_model as xm

    together = Together(torch_xla._XLAC)
    for name in COLLECTIVES:
        setattr(xm, name, together.running(getattr(xm, name)))


class Together:
    """Replicas that run their collectives together.

    Args:
        core: torch-xla's compiled module.
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        replicas = int(os.environ.get("CPU_NUM_DEVICES", "1"))
        self._meeting = threading.Barrier(replicas, action=self._begin)

    def running(self, collective: Any) -> Any:
        """A collective that runs at once."""

        @functools.wraps(collective)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._core._xla_get_replication_devices_count() < 2:
                return collective(*args, **kwargs)
            self._run_alone()
            result = collective(*args, **kwargs)
            self._run()
            return result

        return call

    def _run_alone(self) -> None:
        """Run what is pending, which may be another graph in each replica, to its end."""
        core, device = self._core, self._core._xla_get_default_device()
        core._xla_step_marker(device, [], wait=True, reset_scope=False)

    def _run(self) -> None:
        """Run a collective, with the others, to its end."""
        core, device = self._core, self._core._xla_get_default_device()
        real = core._xla_real_devices([device])
        core._xla_wait_device_ops(real)
        first = self._meeting.wait(PATIENCE) == 0
        if not first:
            self._await_the_first()
        core._xla_step_marker(device, [], wait=False, reset_scope=False)
        if first:
            self._back.set()
        core._xla_wait_device_ops(real)
        # As torch_xla.sync does: the next collective would contain this one, to come after it.
        core._set_all_reduce_token(device, None)

    # --- who compiles -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All are here and wait, so that what is counted from now on is the first one's."""
        self._back = threading.Event()
        self._found, self._compiled = self._counts()

    def _await_the_first(self) -> None:
        """Wait until the first one is back, or what it runs is in the cache: it may be back only when that has run."""
        while not self._back.wait(POLL):
            found, compiled = self._counts()
            if found > self._found:
                return
            if compiled > self._compiled:
                self._back.wait(GRACE)
                return

    def _counts(self) -> tuple[int, int]:
        """How many graphs were found in the cache, and how many were compiled."""
        found = self._core._xla_counter_value("CachedCompile")
        compiled = self._core._xla_metric_data("CompileTime")
        return found or 0, compiled[0] if compiled else 0
