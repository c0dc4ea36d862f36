"""BaguaEnvironment: one of Bagua's launchers started the processes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from torchrelay.environments import ClusterEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError


class BaguaEnvironment(ClusterEnvironment):
    """`python -m bagua.distributed.launch` or `.run`, or `baguarun`, started the processes.

    Variables: `set_bagua_env` and `main` of bagua/distributed/launch.py and run.py, and bagua/torch_api/env.py. The
    second launcher is torchrun with Bagua's variables, so torchrun's are there as well.
    """

    name = "bagua"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether the port of Bagua's service and a rank are set; the port alone is a user's choice of it."""
        return {"BAGUA_SERVICE_PORT", "RANK"} <= environ.keys() and Seat.of(environ) is None

    @property
    def creates_processes(self) -> bool:
        """Always: the launcher has started them all."""
        return True

    @property
    def elastic(self) -> bool:
        """Whether it was `bagua.distributed.run`, which names nodes as torchrun does."""
        return "GROUP_RANK" in self.environ

    @property
    def main_address(self) -> str:
        """MASTER_ADDR."""
        return self.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """MASTER_PORT."""
        return self.number("MASTER_PORT")

    @property
    def service_port(self) -> int:
        """BAGUA_SERVICE_PORT: that of the service that rank 0 starts."""
        return self.number("BAGUA_SERVICE_PORT")

    @property
    def world_size(self) -> int:
        """WORLD_SIZE."""
        return self.number("WORLD_SIZE")

    @property
    def global_rank(self) -> int:
        """RANK."""
        return self.number("RANK")

    @property
    def local_rank(self) -> int:
        """LOCAL_RANK."""
        return self.number("LOCAL_RANK")

    @property
    def local_world_size(self) -> int:
        """LOCAL_WORLD_SIZE."""
        return self.number("LOCAL_WORLD_SIZE")

    @property
    def node_rank(self) -> int:
        """GROUP_RANK under `bagua.distributed.run`, else NODE_RANK."""
        return self.number("GROUP_RANK" if self.elastic else "NODE_RANK")

    @property
    def store_is_hosted(self) -> bool:
        """Whether the agent of `bagua.distributed.run` hosts the store (TORCHELASTIC_USE_AGENT_STORE)."""
        return self.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"

    @property
    def restart_count(self) -> int:
        """TORCHELASTIC_RESTART_COUNT."""
        return int(self.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    @property
    def launch_hint(self) -> str:
        """The options that decide the number of processes."""
        return "bagua.distributed.launch's options are --nnodes NODES --nproc_per_node DEVICES."

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse a layout other than the launcher's.

        Raises:
            LaunchError: another number of processes on this node, or in all, was started.
        """
        if devices != self.local_world_size:
            raise LaunchError(
                f"devices={devices}, but Bagua's launcher started {self.local_world_size} processes on this node; take "
                f"--nproc_per_node {devices}, or devices={self.local_world_size}"
            )
        super().check(devices=devices, num_nodes=num_nodes)
