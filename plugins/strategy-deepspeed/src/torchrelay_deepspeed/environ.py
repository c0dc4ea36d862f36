"""Variables of the environment that connecting to DeepSpeed sets, and how they come back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class ChangedEnviron:
    """What was in this process's environment before a block changed it."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A block that changes variables; noted also where it fails half-way."""
        before = dict(os.environ)
        try:
            yield
        finally:
            changed = [n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)]
            self._before |= {name: before.get(name) for name in changed}

    def restore(self) -> None:
        """Give the variables the values that they had, once."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()
