"""LSFEnvironment: jsrun started the processes of an LSF job."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

_RANK_VARIABLES = ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE")


class LSFEnvironment(ClusterEnvironment):
    """jsrun, the launcher of IBM's Job Step Manager, started the processes of an LSF job.

    Variables: IBM Spectrum LSF 10.1, "Environment variables set for job execution" (LSB_JOBID, LSB_HOSTS,
    LSB_DJOB_RANKFILE); jsrun sets those that begin with JSM_NAMESPACE.

    Args:
        environ: the environment variables to read; `os.environ` when None.
        hostname: this host; asked of the system when None.
    """

    name = "lsf"

    def __init__(
        self, environ: Mapping[str, str] | None = None, hostname: str | None = None
    ) -> None:
        super().__init__(environ)
        self._hostname = hostname or socket.gethostname()

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether an LSF job and jsrun's ranks are set."""
        has_hosts = "LSB_DJOB_RANKFILE" in environ or "LSB_HOSTS" in environ
        has_ranks = all(variable in environ for variable in _RANK_VARIABLES)
        return "LSB_JOBID" in environ and has_hosts and has_ranks and Seat.of(environ) is None

    @property
    def creates_processes(self) -> bool:
        """Always: jsrun has started them all."""
        return True

    @property
    def hosts(self) -> tuple[str, ...]:
        """The compute hosts, each once, in LSF's order.

        The first host of the list is the launch node, from which jsrun is called and on which no rank runs; a
        list of one host is that host's.

        Raises:
            LaunchError: LSF's list is empty or cannot be read.
        """
        path = self.environ.get("LSB_DJOB_RANKFILE")
        try:
            text = Path(path).read_text() if path else self.environ.get("LSB_HOSTS", "")
        except OSError as error:
            raise LaunchError(
                f"cannot read LSF's list of hosts, LSB_DJOB_RANKFILE={path}: {error.strerror}; "
                f"its folder must be visible on the compute nodes"
            ) from error
        slots = text.split()
        if not slots:
            raise LaunchError(
                "LSF's list of hosts is empty: LSB_DJOB_RANKFILE and LSB_HOSTS name none"
            )
        return tuple(dict.fromkeys(slots[1:] if len(set(slots)) > 1 else slots))

    @property
    def main_address(self) -> str:
        """MASTER_ADDR if it is set, else the first compute host."""
        return self.environ.get("MASTER_ADDR") or self.hosts[0]

    @property
    def main_port(self) -> int:
        """MASTER_PORT if it is set, else 10000 plus the last three digits of the job's id, as is customary."""
        if "MASTER_PORT" in self.environ:
            return self.number("MASTER_PORT")
        return 10000 + self.number("LSB_JOBID") % 1000

    @property
    def world_size(self) -> int:
        """JSM_NAMESPACE_SIZE."""
        return self.number("JSM_NAMESPACE_SIZE")

    @property
    def global_rank(self) -> int:
        """JSM_NAMESPACE_RANK."""
        return self.number("JSM_NAMESPACE_RANK")

    @property
    def local_rank(self) -> int:
        """JSM_NAMESPACE_LOCAL_RANK."""
        return self.number("JSM_NAMESPACE_LOCAL_RANK")

    @property
    def local_world_size(self) -> int:
        """JSM_NAMESPACE_LOCAL_SIZE, else an equal share of the ranks."""
        if "JSM_NAMESPACE_LOCAL_SIZE" in self.environ:
            return self.number("JSM_NAMESPACE_LOCAL_SIZE")
        return self.world_size // len(self.hosts)

    @property
    def node_rank(self) -> int:
        """This host's place among the compute hosts.

        Raises:
            LaunchError: LSF's list does not name this host.
        """
        short = [host.partition(".")[0] for host in self.hosts]
        mine = self._hostname.partition(".")[0]
        if mine not in short:
            raise LaunchError(
                f"this host, {mine}, is not one of LSF's compute hosts ({', '.join(short)}); start the "
                f"program with jsrun"
            )
        return short.index(mine)

    @property
    def launch_hint(self) -> str:
        """The options that decide the number of processes."""
        return "jsrun's options are --nrs NODES --tasks_per_rs DEVICES."
