"""The logger "torchrelay": its messages are shown, on stderr, until the program configures logging by itself."""

from __future__ import annotations

import logging
import sys

LOGGER = logging.getLogger("torchrelay")


class StderrUntilConfigured(logging.Handler):
    """Writes messages to stderr as it is at the time, unless another handler takes them too."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        if self._is_alone(record.name):
            try:
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()
            except Exception:  # noqa: BLE001 - as the standard library's handlers do
                self.handleError(record)

    def _is_alone(self, name: str) -> bool:
        """Whether no other handler is there now: `logging.basicConfig` may be called at any time."""
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True


_HANDLER = StderrUntilConfigured()


def show_messages() -> None:
    """Let the logger show the level INFO; leaves a level that the program has set, and every other logger, alone."""
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    LOGGER.addHandler(_HANDLER)
