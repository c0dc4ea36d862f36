"""RunFolder: a folder for each run, `SAVE_DIR/NAME/version_N`."""

from __future__ import annotations

import os


class RunFolder:
    """The folder of a run; made when first asked for.

    Args:
        save_dir: folder of all runs.
        name: folder of some of them; "" for none.
        version: number of the run, or the whole name of its folder; None for the first number that is free.
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
        self._version = version

    @property
    def version(self) -> int | str:
        """The number of the run, or the name of its folder; a number is taken by making its folder."""
        if self._version is None:
            self._version = self._take_number()
        return self._version

    @property
    def path(self) -> str:
        """The folder."""
        given = self.version
        folder = os.path.join(self.root, given if isinstance(given, str) else f"version_{given}")
        os.makedirs(folder, exist_ok=True)
        return folder

    def _take_number(self) -> int:
        number = 0
        while True:
            try:
                os.makedirs(os.path.join(self.root, f"version_{number}"))
            except FileExistsError:
                number += 1
                continue
            return number
