"""ClusterEnvironment: who started the processes of this run, and which of them this one is."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torchrelay.errors import LaunchError


class ClusterEnvironment(ABC):
    """Answers who started the processes of a run, where they meet, and which of them this one is.

    Subclasses import no torch, so that a resolution can be explained without it.

    Args:
        environ: the environment variables to read; `os.environ` when None.
        auto_requeue: in a batch job of SLURM, queue the job again once a run that was interrupted is saved.
        requeue_signal: the signal that `sbatch --signal` sends before a job's time is up; SIGUSR1 when None.
    """

    name: ClassVar[str]

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        auto_requeue: bool = True,
        requeue_signal: int | None = None,
    ) -> None:
        self.environ = os.environ if environ is None else environ
        self.auto_requeue = auto_requeue
        # Windows has no SIGUSR1, and no SLURM either.
        default = getattr(signal, "SIGUSR1", signal.SIGTERM)
        self.requeue_signal = int(default if requeue_signal is None else requeue_signal)

    def __getstate__(self) -> dict[str, Any]:
        # os.environ is the process's own and cannot be pickled: a copy elsewhere reads the variables there.
        state = self.__dict__.copy()
        state["environ"] = None if self.environ is os.environ else dict(self.environ)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        environ = os.environ if state["environ"] is None else state["environ"]
        self.__dict__.update(state, environ=environ)

    @classmethod
    @abstractmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether the variables say that this environment started the process."""

    @property
    @abstractmethod
    def creates_processes(self) -> bool:
        """Whether all processes of the run exist already, so that none is to be launched."""

    @property
    @abstractmethod
    def main_address(self) -> str:
        """Host on which global rank 0 hosts the rendezvous store."""

    @property
    @abstractmethod
    def main_port(self) -> int:
        """Port of the rendezvous store."""

    @property
    @abstractmethod
    def world_size(self) -> int:
        """Number of processes of the run, on all nodes."""

    @property
    @abstractmethod
    def global_rank(self) -> int:
        """This process among all of the run: 0 to `world_size - 1`."""

    @property
    @abstractmethod
    def local_rank(self) -> int:
        """This process among those of its node."""

    @property
    @abstractmethod
    def node_rank(self) -> int:
        """This node among those of the run."""

    @property
    def local_world_size(self) -> int:
        """Number of processes on this node; all of them unless the environment knows better."""
        return self.world_size

    @property
    def store_is_hosted(self) -> bool:
        """Whether somebody else hosts the rendezvous store, so that global rank 0 is a client as well."""
        return False

    @property
    def restart_count(self) -> int:
        """How often the launcher has restarted this run; keeps keys of different attempts apart."""
        return 0

    @property
    def launch_hint(self) -> str:
        """The command by which a user starts a run here, for error messages."""
        return ""

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse a run that does not fit the processes that exist.

        Args:
            devices: processes per node that the user asked for.
            num_nodes: nodes that the user asked for.

        Raises:
            LaunchError: the environment started another number of processes.
        """
        if self.creates_processes and devices * num_nodes != self.world_size:
            raise LaunchError(
                f"devices={devices} x num_nodes={num_nodes} asks for {devices * num_nodes} processes, but "
                f"{self.name} started {self.world_size}; make them equal. {self.launch_hint}".rstrip()
            )

    def number(self, variable: str) -> int:
        """The number that an environment variable holds.

        Raises:
            LaunchError: it is not set, or holds no number.
        """
        text = self.environ.get(variable)
        if text is None:
            raise LaunchError(
                f"{self.name} was recognised, but the environment variable {variable} is not set; "
                f"pass it on to the program. {self.launch_hint}".rstrip()
            )
        try:
            return int(text)
        except ValueError:
            raise LaunchError(
                f"environment variable {variable}={text!r} of {self.name} must be a number"
            ) from None
