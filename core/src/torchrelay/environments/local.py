"""LocalEnvironment: one machine, and nobody but torchrelay's launchers starts processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.program import Program
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

LOOPBACK = "127.0.0.1"


class LocalEnvironment(ClusterEnvironment):
    """One machine, and nobody but torchrelay's launchers starts processes.

    In a process that a launcher started, the seat comes with the environment. Elsewhere this is rank 0 of 1
    until a launcher calls `take`: the script launcher's rank 0 is the user's own process, whose environment
    variables stay as they are.
    """

    name = "local"

    def __init__(self, environ: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(environ, **options)
        self._inherited = Seat.of(self.environ)
        self._taken: Seat | None = None

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:  # noqa: ARG003 - nothing to look for
        """Always: this is what remains when no other environment recognises its variables."""
        return True

    @property
    def seat(self) -> Seat | None:
        """This process's place in a launched run; None before a launch."""
        return self._taken or self._inherited

    def take(self, seat: Seat) -> None:
        """Become one of the processes of a run."""
        self._taken = seat

    def release(self) -> None:
        """Undo `take`."""
        self._taken = None

    @property
    def creates_processes(self) -> bool:
        """Whether one of torchrelay's launchers started this process, and with it all others."""
        return self.seat is not None and self.seat.parent_pid != os.getpid()

    @property
    def launch_hint(self) -> str:
        """What an earlier launch of this program means for a later run."""
        return (
            "An earlier Trainer of this program started them, and each runs the whole program; what only one of them "
            "is to do goes under `if trainer.is_global_zero:`, with a Trainer of its own"
        )

    @property
    def store_is_hosted(self) -> bool:
        """Whether the launching process hosts the store."""
        return self.seat is not None

    @property
    def main_address(self) -> str:
        """Host of the store: this machine."""
        return self.seat.address if self.seat else LOOPBACK

    @property
    def main_port(self) -> int:
        """Port of the store; 0 until a launcher has bound one."""
        return self.seat.port if self.seat else 0

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""
        return self.seat.world_size if self.seat else 1

    @property
    def local_world_size(self) -> int:
        """Number of processes on this node."""
        return self.seat.local_world_size if self.seat else 1

    @property
    def global_rank(self) -> int:
        """This process among all of the run."""
        return self.seat.rank if self.seat else 0

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return self.seat.local_rank if self.seat else 0

    @property
    def node_rank(self) -> int:
        """0: there is one node."""
        return self.seat.node_rank if self.seat else 0

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse several nodes, and a number of processes that the launcher did not start.

        Raises:
            LaunchError: with the torchrun command to give on each node.
        """
        if num_nodes > 1:
            command = Program.current().torchrun(
                f"--nnodes {num_nodes} --nproc-per-node {devices} --rdzv-backend c10d "
                f"--rdzv-endpoint FIRST_NODE:29500 --rdzv-id RUN_NAME"
            )
            raise LaunchError(
                f"num_nodes={num_nodes} needs processes on {num_nodes} machines, and torchrelay starts them "
                f"on this one only; give this command on each machine (FIRST_NODE: the address of one of "
                f"them, RUN_NAME: any word, both the same on all): {command}"
            )
        super().check(devices=devices, num_nodes=num_nodes)
