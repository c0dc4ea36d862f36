"""RunFolder: a folder for each run, `SAVE_DIR/NAME/version_N`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torchrelay.errors import ConfigurationError


class RunFolder:
    """The folder of a run; made when first asked for.

    Args:
        save_dir: folder of all runs.
        name: folder of some of them; "" for none.
        version: number of the run, or the whole name of its folder; None for the first number that is free.

    Attributes:
        chosen: the version, None as long as no number is taken.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None,
        version: int | str | None,
    ) -> None:
        self.save_dir = os.fspath(save_dir)
        self.name = name or ""
        self.root = os.path.join(self.save_dir, self.name)
        self.chosen = version

    @property
    def version(self) -> int | str:
        """The number of the run, or the name of its folder; a number is taken by making its folder."""
        if self.chosen is None:
            self.chosen = self._take_number()
        return self.chosen

    @property
    def path(self) -> str:
        """The folder."""
        given = self.version
        folder = os.path.join(self.root, given if isinstance(given, str) else f"version_{given}")
        with _permission(folder):
            os.makedirs(folder, exist_ok=True)
        return folder

    def _take_number(self) -> int:
        number = 0
        while True:
            folder = os.path.join(self.root, f"version_{number}")
            if os.path.exists(folder):
                number += 1
                continue
            try:
                with _permission(folder):
                    os.makedirs(folder)
            except FileExistsError:  # another run was quicker
                continue
            return number


@contextmanager
def _permission(folder: str) -> Iterator[None]:
    """Tell what to do where a folder cannot be made."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigurationError(
            f"a logger cannot make its folder {folder}: {error.strerror}; give it another save_dir, or the Trainer "
            "another default_root_dir"
        ) from error
