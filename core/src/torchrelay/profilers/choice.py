"""Which profiler a Trainer's argument means."""

from __future__ import annotations

from typing import Any

from torchrelay import profilers
from torchrelay.errors import ConfigurationError, UnknownNameError
from torchrelay.plugin.records import did_you_mean
from torchrelay.profilers.profiler import PassThroughProfiler, Profiler

NAMES = {"simple": "SimpleProfiler", "advanced": "AdvancedProfiler", "pytorch": "PyTorchProfiler"}

PASS_THROUGH = PassThroughProfiler()
"""What `trainer.profiler` is where no run is measured; it has no state, so all share it."""


def make(profiler: Any) -> Profiler | None:
    """The profiler that is meant by a name, an instance or None; None where nothing is measured.

    Raises:
        UnknownNameError: there is none of that name.
        ConfigurationError: it is no profiler.
    """
    if profiler is None or isinstance(profiler, PassThroughProfiler):
        return None
    if isinstance(profiler, Profiler):
        return profiler
    if isinstance(profiler, str):
        return _named(profiler)
    raise ConfigurationError(
        f"profiler={profiler!r} must be {_listed()}, None, or an instance of a torchrelay.profilers.Profiler"
    )


def _named(name: str) -> Profiler:
    kind = NAMES.get(name.lower())
    if kind is None:
        raise UnknownNameError(
            f"no profiler is called {name!r}{did_you_mean(name, NAMES)}; take {_listed()}, or an instance"
        )
    made: Profiler = getattr(profilers, kind)()
    return made


def _listed() -> str:
    return ", ".join(map(repr, NAMES))
