"""The processes that Bagua is connected to, which are the same as long as this process lives."""

from __future__ import annotations

from torchrelay.environments import ClusterEnvironment
from torchrelay.errors import ConfigurationError, LaunchError


class Others:
    """Where the other processes were met, and whether they are there still."""

    def __init__(self) -> None:
        self._where: tuple[str, int, int] | None = None
        self._number = 0
        self._failure = ""
        self._tuned = False

    def met(self, environment: ClusterEnvironment, tuned: bool) -> None:
        """They have been met, by a service that tunes or does not."""
        self._tuned = tuned
        self._where, self._number = _where(environment), environment.world_size

    def lose(self, error: BaseException) -> None:
        """They are being ended, as this process has failed."""
        self._failure = self._failure or f"{type(error).__name__}: {error}".partition("\n")[0]

    def check(self, environment: ClusterEnvironment, tuned: bool) -> None:
        """Refuse a run with other processes, or one that is to be tuned by a service that does not.

        The message has the failure before, which a launcher may hear of from this message alone: Bagua does not let the
        others know that a connection is over.

        Raises:
            LaunchError: they are, and Bagua would wait for those that it was connected to.
            ConfigurationError: there are more or fewer of them, or their service was started without tuning.
        """
        if self._number and tuned and not self._tuned:
            raise ConfigurationError(
                "autotune=True: Bagua's service was started without it, and lives until this process ends; ask for it "
                "in the first run of the program, or start another program"
            )
        if self._number not in (0, environment.world_size):
            raise ConfigurationError(
                f"Bagua is connected to {self._number} processes until this one ends, and the run has "
                f"{environment.world_size}; start another program for it"
            )
        if self._failure or self._where not in (None, _where(environment)):
            why = f", after a run that failed ({self._failure})" if self._failure else ""
            raise LaunchError(
                f"Bagua connects once in a process, and the processes that it was connected to are gone{why}; start "
                "the program again, or take start_method='spawn', which makes new ones for each run"
            )


def _where(environment: ClusterEnvironment) -> tuple[str, int, int]:
    return environment.main_address, environment.main_port, environment.restart_count
