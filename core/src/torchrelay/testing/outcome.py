"""Outcome: what became of a program, for checks to judge."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.testing.checks import CheckFailed

_TAIL = 1500
"""Characters of the standard error that a message quotes."""


@dataclass(frozen=True)
class Seen:
    """An exception by which a process of the program ended."""

    kinds: tuple[str, ...]
    message: str
    traceback: str = ""

    def is_a(self, kind: str) -> bool:
        """Whether it is of the class of that name, or of one derived from it."""
        return kind in self.kinds


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Args:
        folder: what its ranks left.
        ranks: number of processes it should have run in.
        status: exit status of the process that was started; None if it had to be ended.
        stdout, stderr: what was printed, by all processes.
        seconds: how long it took.
        pid: the process that was started.
        ended: when it ended, on `time.monotonic()`'s clock.
        survivors: processes of it that were still there when that process had ended.
        left_files: what it left in its folder of temporary files, and in its working directory.
    """

    folder: Path
    ranks: int
    status: int | None
    stdout: str
    stderr: str
    seconds: float
    pid: int
    ended: float = 0.0
    survivors: tuple[int, ...] = ()
    left_files: tuple[str, ...] = ()

    @property
    def hung(self) -> bool:
        """Whether it had to be ended."""
        return self.status is None

    @property
    def error(self) -> Seen | None:
        """The exception by which the process that was started ended."""
        return self._error(self.folder / f"error-{self.pid}.json")

    @property
    def errors(self) -> list[Seen]:
        """The exceptions of all processes that ended by one."""
        return [seen for path in self.folder.glob("error-*.json") if (seen := self._error(path))]

    def results(self, name: str) -> list[Any]:
        """What the ranks left under a name, by rank.

        Raises:
            CheckFailed: a rank left nothing; the message says how the program ended.
        """
        paths = [self.folder / f"{name}-{rank}.pickle" for rank in range(self.ranks)]
        absent = [rank for rank, path in enumerate(paths) if not path.exists()]
        if absent:
            raise CheckFailed(f"rank {absent[0]} did not come so far: {self.ending}")
        return [pickle.loads(path.read_bytes()) for path in paths]

    def read(self, name: str) -> Any:
        """What the program as a whole left under a name.

        Raises:
            CheckFailed: nothing; the message says how it ended.
        """
        path = self.folder / f"{name}.pickle"
        if not path.exists():
            raise CheckFailed(f"it did not come so far: {self.ending}")
        return pickle.loads(path.read_bytes())

    def left(self, name: str) -> list[Any]:
        """What those ranks left that left something."""
        paths = sorted(self.folder.glob(f"{name}-*.pickle"))
        return [pickle.loads(path.read_bytes()) for path in paths]

    def require_success(self) -> Outcome:
        """This outcome.

        Raises:
            CheckFailed: the program hung or failed.
        """
        if self.status != 0:
            raise CheckFailed(self.ending)
        return self

    @property
    def ending(self) -> str:
        """How it ended, with the end of what it printed on its standard error."""
        how = f"ended with status {self.status}"
        if self.hung:
            how = f"had not ended after {self.seconds:.0f} s, and was ended"
        tail = self.stderr.strip()[-_TAIL:]
        return f"the program {how}" + (f"\n{tail}" if tail else "")

    def _error(self, path: Path) -> Seen | None:
        if not path.exists():
            return None
        found = json.loads(path.read_text("utf-8"))
        return Seen(tuple(found["kinds"]), found["message"], found["traceback"])
