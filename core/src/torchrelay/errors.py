"""Every error that torchrelay raises on purpose.

::

    TorchrelayError
    ├── UserError                    somebody asked for what cannot be; one line says what to do next
    │   ├── ConfigurationError       an argument is wrong, or two contradict each other  (also ValueError)
    │   │   ├── UnknownNameError     no alias, accelerator, precision, ... of that name
    │   │   └── AmbiguousNameError   several distributions provide the name
    │   ├── NotInstalledError        the distribution that provides the name is known, but absent (also ImportError)
    │   ├── BrokenPluginError        the distribution is installed, but its plugin module does not load
    │   ├── UnavailableError         the plugin is fine; the vendor's SDK or the hardware is missing
    │   ├── UnsupportedError         the strategy declares that it cannot do this
    │   ├── NonFiniteLossError       a loss is NaN or infinite  (also ArithmeticError)
    │   ├── LaunchError              the processes cannot be started from here
    │   └── CheckpointError          a checkpoint is missing, torn, foreign, or not safe to load
    ├── PluginError                  a plugin departs from the contract; recorded by discovery, never fatal
    │   └── SpecError                a spec has a bad field  (also ValueError)
    └── WorkerError                  a launched process failed; carries that rank's own traceback (also RuntimeError)

A `UserError` is the user's to mend and is printed as one line; anything else is a bug and keeps its
traceback (`show_user_errors_as_one_line`).
"""

from __future__ import annotations

import os
import sys
import traceback
from types import FrameType, TracebackType

FULL_TRACEBACK_VARIABLE = "TORCHRELAY_TRACEBACK"


class TorchrelayError(Exception):
    """Base of every error that torchrelay raises on purpose."""


class UserError(TorchrelayError):
    """Something was asked for that cannot be; the message says what, why, and what to do next."""


class ConfigurationError(UserError, ValueError):
    """An argument is wrong, or two arguments contradict each other."""


class UnknownNameError(ConfigurationError):
    """No component of that name is known."""


class AmbiguousNameError(ConfigurationError):
    """More than one distribution provides the name."""


class NotInstalledError(UserError, ImportError):
    """The distribution that provides the name is known, but it is not installed."""


class BrokenPluginError(UserError):
    """The distribution is installed, but its plugin module does not load."""


class UnavailableError(UserError):
    """The plugin is fine, but its vendor's SDK or its hardware is missing here."""


class UnsupportedError(UserError):
    """The chosen strategy declares that it cannot do what is asked of it."""


class LaunchError(UserError):
    """The processes of the run cannot be started from here."""


class NonFiniteLossError(UserError, ArithmeticError):
    """A loss is NaN or infinite, where the user asked to be told."""


class CheckpointError(UserError):
    """A checkpoint is missing, torn, from another model, or not safe to load."""


class PluginError(TorchrelayError):
    """A plugin departs from the contract. Discovery records it; other plugins work on."""


class SpecError(PluginError, ValueError):
    """A spec that a plugin returned has a bad field."""


class WorkerError(TorchrelayError, RuntimeError):
    """A launched process failed.

    Attributes:
        rank: global rank of the process that failed first.
        report: that process's formatted traceback, or "" if it died without one (a signal, say).
    """

    def __init__(self, message: str, *, rank: int, report: str = "") -> None:
        super().__init__(message)
        self.rank = rank
        self.report = report

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n\n{self.report.rstrip()}" if self.report else message

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_worker_error, (super().__str__(), self.rank, self.report)


def _rebuild_worker_error(message: str, rank: int, report: str) -> WorkerError:
    return WorkerError(message, rank=rank, report=report)


def one_line(error: UserError) -> str:
    """`FILE:LINE: error: MESSAGE`, where FILE:LINE is the last of the user's own frames."""
    places = [
        f"{frame.f_code.co_filename}:{line}: "
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_machinery(frame)
    ]
    return f"{places[-1] if places else ''}error: {' '.join(str(error).split())}"


def _is_machinery(frame: FrameType) -> bool:
    """Whether a frame is torchrelay's, one of its packages', torch's (which calls closures back) or an import's."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in ("importlib", "torch", "torchrelay") or package.startswith(
        ("_frozen_importlib", "torchrelay_")
    )


def show_user_errors_as_one_line() -> None:
    """Make an uncaught `UserError` print one line instead of a traceback.

    Leaves alone a hook that somebody else installed, and does nothing when the environment variable
    TORCHRELAY_TRACEBACK is set. Every other exception keeps its traceback.
    """
    if sys.excepthook is sys.__excepthook__ and not os.environ.get(FULL_TRACEBACK_VARIABLE):
        sys.excepthook = _excepthook


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, UserError):
        print(one_line(error), file=sys.stderr)
    elif isinstance(error, WorkerError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
