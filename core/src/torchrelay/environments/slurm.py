"""SLURMEnvironment: srun started the processes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

_INTERACTIVE_NAMES = ("bash", "interactive")
_STEP_VARIABLES = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS")
_HOST = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")
_RANGES = re.compile(r"\[([^\],-]+)[^\]]*\]")
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?\Z")


class SLURMEnvironment(ClusterEnvironment):
    """srun started the processes, one a task.

    Variables: https://slurm.schedmd.com/srun.html, "OUTPUT ENVIRONMENT VARIABLES". Within a step srun sets
    SLURM_NTASKS, SLURM_NODELIST and SLURM_TASKS_PER_NODE to the step's values, as it does their SLURM_STEP_
    forms; in an sbatch script, which is one process, they describe the whole job.
    """

    name = "slurm"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether tasks were asked for, and this is neither an interactive shell nor a single batch process."""
        if Seat.of(environ) or "SLURM_NTASKS" not in environ or "SLURM_PROCID" not in environ:
            return False
        # `salloc` and `srun --pty bash` give a shell, a step of one task; an `srun` from that shell keeps the
        # job's name, but is told apart by its several tasks.
        shell = environ.get("SLURM_JOB_NAME") in _INTERACTIVE_NAMES
        if shell and environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
            return False
        return _in_step(environ) or environ["SLURM_NTASKS"] != "1"

    @property
    def creates_processes(self) -> bool:
        """Always: srun has started them all."""
        return True

    @property
    def main_address(self) -> str:
        """MASTER_ADDR if it is set, else the first host of the step's node list."""
        given = self.environ.get("MASTER_ADDR")
        if given:
            return given
        for variable in ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"):
            if self.environ.get(variable):
                return first_host(self.environ[variable])
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A port that every task knows without asking.

        MASTER_PORT if it is set; else the first that `srun --resv-ports` reserved; else 15000 plus the last four
        digits of the job's id, the rule that Lightning made customary. Two steps of one job that run at once on
        the same first node need one of the former.
        """
        if "MASTER_PORT" in self.environ:
            return self.number("MASTER_PORT")
        reserved = re.match(r"\d+", self.environ.get("SLURM_STEP_RESV_PORTS", ""))
        return int(reserved[0]) if reserved else 15000 + self.number("SLURM_JOB_ID") % 10000

    @property
    def world_size(self) -> int:
        """SLURM_NTASKS."""
        return self.number("SLURM_NTASKS")

    @property
    def global_rank(self) -> int:
        """SLURM_PROCID."""
        return self.number("SLURM_PROCID")

    @property
    def local_rank(self) -> int:
        """SLURM_LOCALID."""
        return self.number("SLURM_LOCALID")

    @property
    def node_rank(self) -> int:
        """SLURM_NODEID."""
        return self.number("SLURM_NODEID")

    @property
    def local_world_size(self) -> int:
        """Tasks on this node."""
        counts = self.tasks_per_node
        return counts[self.node_rank] if self.node_rank < len(counts) else self.world_size

    @property
    def tasks_per_node(self) -> tuple[int, ...]:
        """Number of tasks on each node of the step; empty when SLURM does not say."""
        for variable in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
            if self.environ.get(variable):
                return expand_counts(self.environ[variable])
        return ()

    @property
    def restart_count(self) -> int:
        """How often the job was requeued, SLURM_RESTART_COUNT."""
        return int(self.environ.get("SLURM_RESTART_COUNT", "0"))

    @property
    def launch_hint(self) -> str:
        """The options that decide the number of processes."""
        return "srun's options are --nodes=NODES --ntasks-per-node=DEVICES."

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse an sbatch script without srun, and a layout other than srun's.

        Raises:
            LaunchError: the tasks that were asked for do not exist, or are others than the run needs.
        """
        options = f"--nodes={num_nodes} --ntasks-per-node={devices}"
        if not _in_step(self.environ):
            raise LaunchError(
                f"SLURM was asked for {self.world_size} tasks, but this process was started without srun and is "
                f"the only one; start it with `srun {options} python ...`, or, to let torchrelay start the "
                f"processes of one node, submit with --ntasks=1 and --cpus-per-task"
            )
        counts = self.tasks_per_node or tuple(
            [int(self.environ.get("SLURM_NTASKS_PER_NODE", devices))] * num_nodes
        )
        if counts != (devices,) * num_nodes:
            found = ", ".join(map(str, counts))
            raise LaunchError(
                f"devices={devices} x num_nodes={num_nodes} needs {devices} tasks on each of {num_nodes} "
                f"nodes, but SLURM started {found} on {len(counts)}; take `srun {options}`"
            )
        super().check(devices=devices, num_nodes=num_nodes)


def _in_step(environ: Mapping[str, str]) -> bool:
    return any(variable in environ for variable in _STEP_VARIABLES)


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list: `"node[003-005,7],other"` -> `"node003"`.

    Source: https://slurm.schedmd.com/scontrol.html, "show hostnames". A name may have several brackets.
    """
    found = _HOST.match(nodelist.strip())
    return _RANGES.sub(r"\1", found[0]) if found else nodelist


def expand_counts(text: str) -> tuple[int, ...]:
    """SLURM's tasks per node, written out: `"2(x3),1"` -> `(2, 2, 2, 1)`.

    Raises:
        LaunchError: the text has another form.
    """
    counts: list[int] = []
    for part in text.split(","):
        found = _TASKS.match(part.strip())
        if not found:
            raise LaunchError(f"SLURM's tasks per node {text!r} should read like '2(x3),1'")
        counts += [int(found[1])] * int(found[2] or 1)
    return tuple(counts)
