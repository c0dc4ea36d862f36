"""FolderLogger: what loggers that write into a folder of their own for each run have in common."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from torchrelay.loggers.run_folder import RunFolder

P = ParamSpec("P")
L = TypeVar("L", bound="FolderLogger")


class FolderLogger:
    """A logger whose runs have folders, `SAVE_DIR/NAME/version_N`, of which nothing is made before it is needed.

    All ranks have a logger, and global rank 0's alone writes: the others `follow` it, so that `log_dir` is the same
    everywhere and what a module records on every rank is recorded once.

    Args:
        save_dir: folder under which each run gets `NAME/version_N`.
        name: folder between the two; "" for none.
        version: number of the run, or the whole name of its folder, to go on in; None takes the next.
        prefix: put before each metric's name, with a `-`.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None,
        version: int | str | None,
        prefix: str,
    ) -> None:
        self._folder = RunFolder(save_dir, name, version)
        self._prefix = f"{prefix}-" if prefix else ""
        self.follows = False
        self.hparams: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The folder between `save_dir` and the run's."""
        return self._folder.name

    @property
    def version(self) -> int | str:
        """The number of this run, or the name of its folder."""
        return self._folder.version

    @version.setter
    def version(self, version: int | str) -> None:
        self._folder.chosen = version

    @property
    def chosen_version(self) -> int | str | None:
        """The same, None as long as no number is taken; asking takes none."""
        return self._folder.chosen

    @property
    def save_dir(self) -> str:
        """The folder of all runs."""
        return self._folder.save_dir

    @property
    def root_dir(self) -> str:
        """The folder of the runs of this name."""
        return self._folder.root

    @property
    def log_dir(self) -> str:
        """The folder of this run; made when first asked for."""
        return self._folder.path

    def follow(self, version: int | str | None) -> None:
        """Record nothing from now on, and take rank 0's version; for all ranks but that one."""
        self.follows = True
        self._folder.chosen = version


class Silence:
    """Stands for the writer of a logger that follows: whatever is called on it does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):  # what Python itself asks for, as copy and pickle do
            raise AttributeError(name)
        return _nothing


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def recording(method: Callable[Concatenate[L, P], None]) -> Callable[Concatenate[L, P], None]:
    """Let a method do nothing where its logger follows."""

    @functools.wraps(method)
    def record(self: L, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.follows:
            method(self, *args, **kwargs)

    return record
