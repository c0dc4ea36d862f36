"""Who started the processes of a run: torchrelay, torchrun, or a cluster's scheduler. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.environments.environment import ClusterEnvironment as ClusterEnvironment
    from torchrelay.environments.kubeflow import KubeflowEnvironment as KubeflowEnvironment
    from torchrelay.environments.local import LocalEnvironment as LocalEnvironment
    from torchrelay.environments.lsf import LSFEnvironment as LSFEnvironment
    from torchrelay.environments.mpi import MPIEnvironment as MPIEnvironment
    from torchrelay.environments.slurm import SLURMEnvironment as SLURMEnvironment
    from torchrelay.environments.torchrun import TorchrunEnvironment as TorchrunEnvironment
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "ClusterEnvironment": ".environment",
            "KubeflowEnvironment": ".kubeflow",
            "LSFEnvironment": ".lsf",
            "LocalEnvironment": ".local",
            "MPIEnvironment": ".mpi",
            "SLURMEnvironment": ".slurm",
            "TorchrunEnvironment": ".torchrun",
        },
    )
