"""HorovodEnvironment: horovodrun, or another launcher of Horovod's, started the processes. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from torchrelay.environments import ClusterEnvironment
from torchrelay.environments.program import Program
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

LOOPBACK = "127.0.0.1"

PORTS = (15000, 30000)
"""From which a port is chosen, by Horovod's own, for what ranks tell each other beside Horovod."""


class HorovodEnvironment(ClusterEnvironment):
    """horovodrun started the processes; in an elastic job it may change their number.

    Variables: https://github.com/horovod/horovod/blob/v0.28.1/horovod/runner/gloo_run.py, `create_slot_env_vars`.
    """

    name = "horovod"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether Horovod's rank and size are set."""
        return {"HOROVOD_RANK", "HOROVOD_SIZE"} <= environ.keys() and Seat.of(environ) is None

    @property
    def creates_processes(self) -> bool:
        """Always: the launcher has started them all."""
        return True

    @property
    def elastic(self) -> bool:
        """Whether ranks may come and go (HOROVOD_ELASTIC)."""
        return self.environ.get("HOROVOD_ELASTIC") == "1"

    @property
    def meets_once(self) -> bool:
        """Whether ranks meet at a server that is made for one meeting; that of an elastic job is made for many."""
        return "HOROVOD_GLOO_RENDEZVOUS_PORT" in self.environ and not self.elastic

    @property
    def rendezvous(self) -> str:
        """Where that server is, which horovodrun hosts: `host:port`."""
        return f"{self._rendezvous}:{self.number('HOROVOD_GLOO_RENDEZVOUS_PORT')}"

    @property
    def main_address(self) -> str:
        """MASTER_ADDR; this machine when all processes are on it.

        Raises:
            LaunchError: there are several machines and MASTER_ADDR is not set: Horovod's variables do not say where
                rank 0 is.
        """
        given = self.environ.get("MASTER_ADDR")
        if given:
            return given
        if self._rendezvous != LOOPBACK and self.local_world_size < self.world_size:
            raise LaunchError(
                "horovodrun started processes on several machines, and its variables do not say where rank 0 is; set "
                "MASTER_ADDR to the first machine's address before you start it"
            )
        return LOOPBACK

    @property
    def main_port(self) -> int:
        """MASTER_PORT; else one that follows from the port of Horovod's rendezvous (15000 to 29999)."""
        if "MASTER_PORT" in self.environ:
            return self.number("MASTER_PORT")
        first, beyond = PORTS
        # Half the range further than it would be: the rendezvous may be in the range, and is never met so.
        shifted = self.number("HOROVOD_GLOO_RENDEZVOUS_PORT") + (beyond - first) // 2
        return first + shifted % (beyond - first)

    @property
    def _rendezvous(self) -> str:
        """Where horovodrun is; the names of hosts in an elastic job on one machine may be several."""
        return self.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR", "")

    @property
    def world_size(self) -> int:
        """HOROVOD_SIZE."""
        return self.number("HOROVOD_SIZE")

    @property
    def global_rank(self) -> int:
        """HOROVOD_RANK."""
        return self.number("HOROVOD_RANK")

    @property
    def local_rank(self) -> int:
        """HOROVOD_LOCAL_RANK."""
        return self.number("HOROVOD_LOCAL_RANK")

    @property
    def local_world_size(self) -> int:
        """HOROVOD_LOCAL_SIZE."""
        return self.number("HOROVOD_LOCAL_SIZE")

    @property
    def node_rank(self) -> int:
        """HOROVOD_CROSS_RANK: this host among those that have a process of this local rank."""
        return self.number("HOROVOD_CROSS_RANK")

    @property
    def launch_hint(self) -> str:
        """The options that decide the number of processes."""
        return "horovodrun's options are -np PROCESSES -H HOST:DEVICES,HOST:DEVICES."

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse a layout other than horovodrun's.

        Raises:
            LaunchError: another number of processes on this host, or in all, was started.
        """
        if devices != self.local_world_size:
            raise LaunchError(
                f"devices={devices}, but horovodrun started {self.local_world_size} processes on this host; take "
                f"horovodrun -np {devices * num_nodes}, or devices={self.local_world_size}"
            )
        super().check(devices=devices, num_nodes=num_nodes)


def command(processes: int, hosts: str = "") -> str:
    """The shell command that starts this program under horovodrun; `train.py` where it is no script.

    Args:
        processes: in all.
        hosts: `HOST:DEVICES,...`, where there are several machines.
    """
    program = Program.current()
    kind, name = program.target[:1], "".join(program.target[-1:]).rpartition("/")[2]
    is_script = kind not in ((), ("-c",)) and name not in ("torchrelay", "horovodrun")
    words = (*program.target, *program.arguments) if is_script else ("train.py",)
    where = ("-H", hosts) if hosts else ()
    return shlex.join(["horovodrun", "-np", str(processes), *where, "python", *words])
