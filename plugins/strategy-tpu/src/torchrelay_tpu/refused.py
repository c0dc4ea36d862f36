"""What cannot be done, and what to do instead, known before any process starts."""

from __future__ import annotations

from collections.abc import Iterator

from torchrelay.environments import ClusterEnvironment, LocalEnvironment
from torchrelay.environments.program import Program


def processes(environment: ClusterEnvironment) -> Iterator[str]:
    """Why processes that somebody else has started cannot train together.

    Args:
        environment: who starts them.
    """
    if isinstance(environment, LocalEnvironment) or environment.world_size == 1:
        return
    target = " ".join(Program.current().target) or "train.py"
    yield (
        f"{environment.name} started {environment.world_size} processes, of which XLA does not know, so that each "
        f"would take itself for the only one; start the program alone, and XLA starts its processes: python {target}"
    )
