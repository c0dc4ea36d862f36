"""Which signals ask a run to end in time, and how a scheduler is asked to start it again."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchrelay.environments.environment import ClusterEnvironment

INTERACTIVE_NAMES = ("bash", "interactive")
"""Names of SLURM jobs in which a person types."""


def signals(environment: ClusterEnvironment) -> tuple[int, ...]:
    """SIGTERM, and in a batch job of SLURM the signal that `sbatch --signal` sends before the time is up."""
    if job_id(environment.environ) is None:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, environment.requeue_signal)


def requeue_command(environment: ClusterEnvironment, number: int) -> tuple[str, ...] | None:
    """The command that queues this job again; None where none is to be given.

    SIGTERM asks for none: it comes from `scancel`, or from a preemption after which SLURM queues the job itself.

    Args:
        environment: whose variables and settings hold.
        number: the signal that ended the run.
    """
    job = job_id(environment.environ)
    if job is None or not environment.auto_requeue or number != environment.requeue_signal:
        return None
    return ("scontrol", "requeue", job)


def job_id(environ: Mapping[str, str]) -> str | None:
    """SLURM's name of this batch job, `ID` or `ARRAY_TASK`; None outside of one, and in an interactive one.

    Variables: https://slurm.schedmd.com/sbatch.html, "OUTPUT ENVIRONMENT VARIABLES".
    """
    if "SLURM_JOB_ID" not in environ or environ.get("SLURM_JOB_NAME") in INTERACTIVE_NAMES:
        return None
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ["SLURM_JOB_ID"]


def restarts(environ: Mapping[str, str]) -> int:
    """How often SLURM has started this job again, SLURM_RESTART_COUNT; 0 elsewhere."""
    text = environ.get("SLURM_RESTART_COUNT", "0")
    return int(text) if text.isdecimal() else 0
