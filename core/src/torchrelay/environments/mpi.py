"""MPIEnvironment: an MPI launcher started the processes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Dialect:
    """The variables of one MPI implementation.

    Args:
        rank: this process among all of the job.
        size: number of processes of the job.
        local_rank: this process among those of the node.
        local_size: number of processes of the node.
        job: what tells the job from others on the machine, if there is such a variable.
    """

    rank: str
    size: str
    local_rank: str
    local_size: str
    job: str = ""


DIALECTS = (
    # https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html
    Dialect(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "PMIX_NAMESPACE",
    ),
    # https://mvapich.cse.ohio-state.edu/static/media/mvapich/mvapich2-userguide.html
    Dialect(
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    # Hydra, the launcher of MPICH and Intel MPI, sets PMI's variables and these two of its own.
    Dialect("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


class MPIEnvironment(ClusterEnvironment):
    """An MPI launcher (`mpirun`, `mpiexec`) started the processes: Open MPI, MPICH, Intel MPI or MVAPICH2.

    All is read from variables; mpi4py is not needed. Ranks are taken to be placed node by node, the launchers'
    default, and equally many on each.
    """

    name = "mpi"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether some implementation's rank and size are set."""
        return _dialect(environ) is not None and Seat.of(environ) is None

    @property
    def dialect(self) -> Dialect:
        """The implementation whose variables are set.

        Raises:
            LaunchError: there is none.
        """
        found = _dialect(self.environ)
        if found is None:
            raise LaunchError(
                "no MPI launcher's variables are set (OMPI_COMM_WORLD_RANK, PMI_RANK); start the program "
                "with mpirun"
            )
        return found

    @property
    def creates_processes(self) -> bool:
        """Always: the launcher has started them all."""
        return True

    @property
    def main_address(self) -> str:
        """MASTER_ADDR; this machine when all processes are on it.

        Raises:
            LaunchError: there are several nodes and MASTER_ADDR is not set: MPI's variables name no host.
        """
        given = self.environ.get("MASTER_ADDR")
        if given:
            return given
        if self.local_world_size < self.world_size:
            raise LaunchError(
                "MPI started processes on several nodes, and its variables do not say where rank 0 is; set "
                "MASTER_ADDR to the first node's address, and MASTER_PORT: "
                "mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=29500 ... (MPICH: -genv MASTER_ADDR HOST)"
            )
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """MASTER_PORT; else one that follows from the job's name (15000 to 29999); else 29500, torch's own."""
        if "MASTER_PORT" in self.environ:
            return self.number("MASTER_PORT")
        job = self.environ.get(self.dialect.job, "")
        return 15000 + zlib.crc32(job.encode()) % 15000 if job else DEFAULT_PORT

    @property
    def world_size(self) -> int:
        """Number of processes of the job."""
        return self.number(self.dialect.size)

    @property
    def global_rank(self) -> int:
        """This process's rank in MPI_COMM_WORLD."""
        return self.number(self.dialect.rank)

    @property
    def local_rank(self) -> int:
        """This process among those of its node."""
        return self.number(self.dialect.local_rank)

    @property
    def local_world_size(self) -> int:
        """Number of processes on this node."""
        return self.number(self.dialect.local_size)

    @property
    def node_rank(self) -> int:
        """This node, as it follows from ranks that are placed node by node."""
        return self.global_rank // self.local_world_size

    @property
    def launch_hint(self) -> str:
        """The options that decide the number of processes."""
        return "mpirun's option is -np PROCESSES, of which --map-by ppr:DEVICES:node puts DEVICES on each node."

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse another number of processes, another layout, and ranks dealt out in turn.

        Raises:
            LaunchError: the processes that exist are not those that the run needs.
        """
        super().check(devices=devices, num_nodes=num_nodes)
        if devices != self.local_world_size:
            raise LaunchError(
                f"devices={devices}, but MPI started {self.local_world_size} processes on this node; "
                f"take mpirun -np {devices * num_nodes} --map-by ppr:{devices}:node"
            )
        if self.global_rank % devices != self.local_rank:
            raise LaunchError(
                f"MPI dealt the ranks out to the nodes in turn (rank {self.global_rank} is local rank "
                f"{self.local_rank}); place them node by node: mpirun -np {devices * num_nodes} "
                f"--map-by ppr:{devices}:node"
            )


def _dialect(environ: Mapping[str, str]) -> Dialect | None:
    found = (dialect for dialect in DIALECTS if {dialect.rank, dialect.size} <= environ.keys())
    return next(found, None)
