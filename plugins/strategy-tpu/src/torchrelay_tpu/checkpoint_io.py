"""XLACheckpointIO: as torch's, with tensors of XLA's copied to the CPU first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.tree import map_tensors


class XLACheckpointIO(TorchCheckpointIO):
    """One file in torch.save's format, which has no tensor of XLA's in it, so that it loads where there is no XLA.

    The strategies of this package copy what they save, on all replicas together, so any checkpoint IO will do for them;
    this one is for loops of one's own. What is pending on the device has to have run before it is called, as it is on
    one replica alone.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write `checkpoint` to `path`, creating folders that are missing.

        Raises:
            CheckpointError: the place cannot be written to; what was at `path` before is still there.
        """
        on_cpu = map_tensors(dict(checkpoint), lambda tensor: tensor.detach().cpu())
        super().save_checkpoint(on_cpu, path)
