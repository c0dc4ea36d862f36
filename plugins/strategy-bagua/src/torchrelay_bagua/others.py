"""The processes that Bagua is connected to, which are the same as long as this process lives."""

from __future__ import annotations

import time

from torchrelay.environments import ClusterEnvironment
from torchrelay.errors import LaunchError

GRACE = 30.0
"""Seconds in which a launcher ends the processes of a run that has failed."""


class Others:
    """Where the other processes were met, and whether they are there still."""

    def __init__(self) -> None:
        self._where: tuple[str, int, int] | None = None
        self._lost = False

    def met(self, environment: ClusterEnvironment) -> None:
        """They have been met."""
        self._where = _where(environment)

    def lose(self) -> None:
        """They are being ended."""
        self._lost = True

    def check(self, environment: ClusterEnvironment) -> None:
        """Refuse a run with other processes.

        Raises:
            LaunchError: they are, and Bagua would wait for those that it was connected to.
        """
        if self._lost and environment.global_rank:
            # The launcher is about to end this process, and would take the second failure for the cause of the first.
            time.sleep(GRACE)
        if self._lost or self._where not in (None, _where(environment)):
            raise LaunchError(
                "Bagua connects once in a process, and the processes that it was connected to are gone; start the "
                "program again, or take start_method='spawn', which makes new ones for each run"
            )


def _where(environment: ClusterEnvironment) -> tuple[str, int, int]:
    return environment.main_address, environment.main_port, environment.restart_count
