"""XLAEnvironment: XLA started the replicas, and numbers them. Imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torchrelay.environments import LocalEnvironment
from torchrelay.environments.seat import Seat

_here = threading.local()
"""The seat of the replica that this thread is."""


class XLAEnvironment(LocalEnvironment):
    """XLA started the replicas: a process for each, or a thread where one process drives several devices.

    Threads share the environment variables of their process, so what a replica is stands with its thread.
    """

    name = "xla"

    def __init__(self, environ: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(environ, **options)
        seat = replica()
        if seat is not None:
            self.take(seat)

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:  # noqa: ARG003 - the thread knows
        """Whether this thread is a replica that XLA has started for torchrelay."""
        return replica() is not None


def replica() -> Seat | None:
    """The place of the replica that this thread is, if it is one."""
    return getattr(_here, "seat", None)


@contextmanager
def seated(seat: Seat) -> Iterator[None]:
    """Let this thread be a replica."""
    _here.seat = seat
    try:
        yield
    finally:
        del _here.seat
