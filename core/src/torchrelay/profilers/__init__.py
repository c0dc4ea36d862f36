"""Profilers: where the time of a run goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.profilers.advanced import AdvancedProfiler as AdvancedProfiler
    from torchrelay.profilers.choice import make as make
    from torchrelay.profilers.profiler import PassThroughProfiler as PassThroughProfiler
    from torchrelay.profilers.profiler import Profiler as Profiler
    from torchrelay.profilers.pytorch import PyTorchProfiler as PyTorchProfiler
    from torchrelay.profilers.simple import SimpleProfiler as SimpleProfiler
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "AdvancedProfiler": ".advanced",
            "PassThroughProfiler": ".profiler",
            "Profiler": ".profiler",
            "PyTorchProfiler": ".pytorch",
            "SimpleProfiler": ".simple",
            "make": ".choice",
        },
    )
