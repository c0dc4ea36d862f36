"""Which files a command line means."""

from __future__ import annotations

import glob
import os

from torchrelay.errors import ConfigurationError

METRICS = "metrics.csv"
DEPTH = 3
"""How far below a given folder runs are looked for: `SAVE_DIR/NAME/version_N`, and one more."""


def find(given: str) -> tuple[str, str]:
    """The metrics.csv that a path means, and what to say about the choice; "" if there was none.

    Args:
        given: a metrics.csv, a run's folder, or a folder of runs, which means the newest of them.

    Raises:
        ConfigurationError: there is none.
    """
    if not os.path.exists(given):
        raise ConfigurationError(
            f"{given} does not exist; give a run's folder, such as .../version_0"
        )
    if not os.path.isdir(given):
        return given, ""
    own = os.path.join(given, METRICS)
    if os.path.exists(own):
        return own, ""
    found = _below(given, METRICS)
    if not found:
        raise ConfigurationError(_advice(given))
    newest = max(found, key=os.path.getmtime)
    run = os.path.relpath(os.path.dirname(newest), given)
    count = "one run" if len(found) == 1 else f"{len(found)} runs"
    return newest, f"{given} holds {count}; drawing the newest, {run}"


def _below(folder: str, name: str) -> list[str]:
    """The files of that name, or of those names, in the folders below one."""
    escaped = glob.escape(folder)
    patterns = [os.path.join(escaped, *["*"] * depth, name) for depth in range(DEPTH + 1)]
    return [path for pattern in patterns for path in glob.glob(pattern)]


def _advice(folder: str) -> str:
    if _below(folder, "events.out.tfevents.*"):
        return (
            f"{folder} holds no {METRICS} but event files: show them with tensorboard --logdir {folder}, "
            "or log with CSVLogger"
        )
    return f"{folder} holds no {METRICS}; give the folder of a run that logged with CSVLogger, such as .../version_0"
