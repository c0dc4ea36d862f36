"""Launcher: brings the processes of a run into being."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar


class Launcher(ABC):
    """Runs a function in every process of a run.

    A strategy owns at most one launcher; it has none when there is a single process or when the cluster
    environment has made the processes already.
    """

    name: ClassVar[str]

    returns_to_caller: ClassVar[bool]
    """Whether the caller's process takes no part: the function ran elsewhere, on copies of its arguments, and
    what the caller is to keep must come back in the function's result."""

    @abstractmethod
    def launch(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run `function(*args)` in every process and return what it returned on global rank 0.

        Raises:
            LaunchError: the processes cannot be started from here; none has been.
            WorkerError: a process failed; it is the one that failed first, with its traceback, and every
                other process is gone.
        """
