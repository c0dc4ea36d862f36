"""BaguaEnvironment: one of Bagua's launchers started the processes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from torchrelay.environments import TorchrunEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError


class BaguaEnvironment(TorchrunEnvironment):
    """`python -m bagua.distributed.launch` or `.run`, or `baguarun`, started the processes.

    Ranks are in the variables that torchrun sets too, and the second launcher is torchrun with Bagua's beside them:
    `set_bagua_env` and `main` of bagua/distributed/launch.py and run.py, and bagua/torch_api/env.py.
    """

    name = "bagua"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether the port of Bagua's service and a rank are set; the port alone is a user's choice of it."""
        return {"BAGUA_SERVICE_PORT", "RANK"} <= environ.keys() and Seat.of(environ) is None

    @property
    def elastic(self) -> bool:
        """Whether it was `bagua.distributed.run`, which names nodes as torchrun does."""
        return "GROUP_RANK" in self.environ

    @property
    def service_port(self) -> int:
        """BAGUA_SERVICE_PORT: that of the service that rank 0 starts."""
        return self.number("BAGUA_SERVICE_PORT")

    @property
    def node_rank(self) -> int:
        """GROUP_RANK under `bagua.distributed.run`, else NODE_RANK."""
        return self.number("GROUP_RANK" if self.elastic else "NODE_RANK")

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
