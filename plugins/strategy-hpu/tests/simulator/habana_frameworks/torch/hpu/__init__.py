"""Simulated: what becomes `torch.hpu`."""

from __future__ import annotations

import sys

import torch

from habana_frameworks.torch.hpu import device as _device
from habana_frameworks.torch.hpu import graphs as _graphs
from habana_frameworks.torch.hpu import machine as _machine
from habana_frameworks.torch.hpu import order as _order
from habana_frameworks.torch.hpu.random import (
    get_rng_state,
    get_rng_state_all,
    manual_seed,
    manual_seed_all,
    set_rng_state,
    set_rng_state_all,
)
from habana_frameworks.torch.utils.internal import is_lazy as _is_lazy

__all__ = [
    "current_device",
    "device_count",
    "get_device_name",
    "get_rng_state",
    "get_rng_state_all",
    "is_available",
    "manual_seed",
    "manual_seed_all",
    "memory_stats",
    "set_rng_state",
    "set_rng_state_all",
    "synchronize",
]

_GRAPHS = ("wrap_in_hpu_graph",)


def __getattr__(name):
    # The vendor's imports these only in lazy mode.
    if name in _GRAPHS and _is_lazy():
        return getattr(_graphs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def is_available():
    return _machine.installed() > 0


def device_count():
    return _machine.installed()


def get_device_name(device=None):
    return _machine.name() if is_available() else ""


def current_device():
    return 0


def synchronize():
    return None


def memory_stats(device=None):
    keys = (
        "Limit", "InUse", "MaxInUse", "NumAllocs", "NumFrees", "ActiveAllocs", "MaxAllocSize",
        "TotalSystemAllocs", "TotalSystemFrees", "TotalActiveAllocs",
    )  # fmt: skip
    return dict.fromkeys(keys, 0)


# --- what torch itself asks of a device's module --------------------------------------------------------


def _is_in_bad_fork():
    return False


def is_initialized():
    return True


class Stream:
    """What torch's compiler knows a device's streams by."""


class Event:
    """What torch's compiler knows a device's events by."""


def get_amp_supported_dtype():
    return [torch.bfloat16, torch.float16]


_device.register(sys.modules[__name__])
_order.watch()
