"""TorchrunEnvironment: torchrun started the processes."""

from __future__ import annotations

from collections.abc import Mapping

from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError


class TorchrunEnvironment(ClusterEnvironment):
    """torchrun started the processes; it restarts them, and may change their number.

    Variables: https://docs.pytorch.org/docs/stable/elastic/run.html, "Environment Variables".
    """

    name = "torchrun"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether torchrun's run id is set."""
        return "TORCHELASTIC_RUN_ID" in environ and Seat.of(environ) is None

    @property
    def creates_processes(self) -> bool:
        """Always: torchrun has started them all."""
        return True

    @property
    def main_address(self) -> str:
        """Host of global rank 0, MASTER_ADDR."""
        return self.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Port of the store, MASTER_PORT; chosen by torchrun's agent."""
        return self.number("MASTER_PORT")

    @property
    def world_size(self) -> int:
        """WORLD_SIZE: after a restart under elastic sizes it may differ from before."""
        return self.number("WORLD_SIZE")

    @property
    def global_rank(self) -> int:
        """RANK; not stable over restarts."""
        return self.number("RANK")

    @property
    def local_rank(self) -> int:
        """LOCAL_RANK."""
        return self.number("LOCAL_RANK")

    @property
    def local_world_size(self) -> int:
        """LOCAL_WORLD_SIZE: torchrun's --nproc-per-node."""
        return self.number("LOCAL_WORLD_SIZE")

    @property
    def node_rank(self) -> int:
        """GROUP_RANK: the rank of the node's agent."""
        return self.number("GROUP_RANK")

    @property
    def store_is_hosted(self) -> bool:
        """Whether torchrun's agent hosts the store (TORCHELASTIC_USE_AGENT_STORE)."""
        return self.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"

    @property
    def restart_count(self) -> int:
        """TORCHELASTIC_RESTART_COUNT."""
        return int(self.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    @property
    def launch_hint(self) -> str:
        """The options that decide the number of processes."""
        return "torchrun's options are --nnodes NODES --nproc-per-node DEVICES."

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse a layout other than torchrun's.

        Raises:
            LaunchError: another number of processes per node, or in all, was started.
        """
        if devices != self.local_world_size:
            raise LaunchError(
                f"devices={devices}, but torchrun started {self.local_world_size} processes on this node; "
                f"take torchrun --nproc-per-node {devices}, or devices={self.local_world_size}"
            )
        super().check(devices=devices, num_nodes=num_nodes)
