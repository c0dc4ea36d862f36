"""Work that goes on in the background, one job after another."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any


class Background:
    """Jobs that are done one after another in the order in which they came, while the caller goes on.

    A job whose predecessor failed is not begun. The interpreter waits for what is not done when it exits, and then
    shows an error that nobody has asked for.
    """

    def __init__(self) -> None:
        self._last: _Job | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is not done yet."""
        return self._last is not None and self._last.is_alive()

    def start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work(*arguments)` when everything before is done."""
        self._last = _Job(self._last, work, arguments)
        self._last.start()
        atexit.register(self.finish)

    def finish(self) -> None:
        """Return when everything is done, and forget about it.

        Raises:
            BaseException: what the first job that failed has raised.
        """
        if self._last is None:
            return
        self._last.join()
        error, self._last = self._last.error, None
        atexit.unregister(self.finish)
        if error is not None:
            raise error


class _Job(threading.Thread):
    # No daemon: the interpreter joins such threads before it calls what is registered with atexit.

    def __init__(
        self, previous: _Job | None, work: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        super().__init__(name="torchrelay-background")
        self.daemon = False
        self.error: BaseException | None = None
        self._previous = previous
        self._work: Callable[[], None] | None = lambda: work(*arguments)

    def run(self) -> None:
        if self._previous is not None:
            self._previous.join()
            self.error, self._previous = self._previous.error, None
        work, self._work = (
            self._work,
            None,
        )  # what it holds is large, and not needed once it is done
        if self.error is not None or work is None:
            return
        try:
            work()
        except BaseException as error:  # noqa: BLE001  `finish` raises it where the user sees it
            self.error = error
