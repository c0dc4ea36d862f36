"""How the processes of a run communicate: not at all, or through torch.distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay.collectives.collectives import Collectives as Collectives
    from torchrelay.collectives.collectives import ReduceOp as ReduceOp
    from torchrelay.collectives.none import NoCollectives as NoCollectives
    from torchrelay.collectives.torch_distributed import TorchCollectives as TorchCollectives
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "Collectives": ".collectives",
            "NoCollectives": ".none",
            "ReduceOp": ".collectives",
            "TorchCollectives": ".torch_distributed",
        },
    )
