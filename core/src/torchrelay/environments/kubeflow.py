"""KubeflowEnvironment: Kubeflow's training operator started a pod for each process."""

from __future__ import annotations

from collections.abc import Mapping

from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.environments.program import Program
from torchrelay.environments.seat import Seat
from torchrelay.errors import LaunchError

_VARIABLES = ("KUBERNETES_PORT", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")


class KubeflowEnvironment(ClusterEnvironment):
    """Kubeflow's training operator started a pod for each process of a PyTorchJob.

    Variables: https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/pytorch (RANK is the pod's,
    WORLD_SIZE the number of pods); Kubernetes sets KUBERNETES_PORT in every pod.
    """

    name = "kubeflow"

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> bool:
        """Whether a pod's and the operator's variables are set."""
        found = all(variable in environ for variable in _VARIABLES)
        return found and "TORCHELASTIC_RUN_ID" not in environ and Seat.of(environ) is None

    @property
    def creates_processes(self) -> bool:
        """Always: each pod is a process."""
        return True

    @property
    def main_address(self) -> str:
        """MASTER_ADDR: the service of the pod of rank 0."""
        return self.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """MASTER_PORT."""
        return self.number("MASTER_PORT")

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
        """0: a pod is a node with one process."""
        return 0

    @property
    def local_world_size(self) -> int:
        """1: a pod is a node with one process."""
        return 1

    @property
    def node_rank(self) -> int:
        """The pod."""
        return self.global_rank

    def check(self, *, devices: int, num_nodes: int) -> None:
        """Refuse several processes in a pod, and another number of pods.

        Raises:
            LaunchError: with the torchrun command that puts several processes into each pod.
        """
        if devices != 1:
            command = Program.current().torchrun(
                f"--nnodes {self.world_size} --nproc-per-node {devices} --node-rank {self.global_rank} "
                f"--master-addr {self.main_address} --master-port {self.main_port}"
            )
            raise LaunchError(
                f"devices={devices}, but Kubeflow's pods are one process each; take devices=1 and "
                f"num_nodes={self.world_size}, or start each pod (--node-rank is its RANK) with: {command}"
            )
        super().check(devices=devices, num_nodes=num_nodes)

    @property
    def launch_hint(self) -> str:
        """The fields that decide the number of pods."""
        return "The PyTorchJob's Master and Worker replicas together are num_nodes."
