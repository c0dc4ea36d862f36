"""How the processes of a run come into being, and how they end together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.launchers.failure import mark as mark
    from torchrelay.launchers.launcher import Launcher as Launcher
    from torchrelay.launchers.multiprocess import MultiProcessingLauncher as MultiProcessingLauncher
    from torchrelay.launchers.script import ScriptLauncher as ScriptLauncher
    from torchrelay.launchers.supervision import guard_worker as guard_worker
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Launcher": ".launcher",
            "MultiProcessingLauncher": ".multiprocess",
            "ScriptLauncher": ".script",
            "guard_worker": ".supervision",
            "mark": ".failure",
        },
    )
