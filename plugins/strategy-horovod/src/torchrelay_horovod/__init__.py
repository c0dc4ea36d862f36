"""Horovod strategy for torchrelay: each rank has the whole model, and gradients are averaged while backward runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_horovod.collectives import HorovodCollectives as HorovodCollectives
    from torchrelay_horovod.commits import ElasticCommit as ElasticCommit
    from torchrelay_horovod.environment import HorovodEnvironment as HorovodEnvironment
    from torchrelay_horovod.strategy import HorovodStrategy as HorovodStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "ElasticCommit": ".commits",
            "HorovodCollectives": ".collectives",
            "HorovodEnvironment": ".environment",
            "HorovodStrategy": ".strategy",
        },
    )
