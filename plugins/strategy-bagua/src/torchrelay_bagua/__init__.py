"""Bagua strategies for torchrelay: gradients in 8 bits, and decentralized and asynchronous averaging of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_bagua.algorithms import AsyncAverage as AsyncAverage
    from torchrelay_bagua.algorithms import Bytegrad as Bytegrad
    from torchrelay_bagua.algorithms import Decentralized as Decentralized
    from torchrelay_bagua.algorithms import GradientAllreduce as GradientAllreduce
    from torchrelay_bagua.algorithms import LowPrecisionDecentralized as LowPrecisionDecentralized
    from torchrelay_bagua.algorithms import QAdam as QAdam
    from torchrelay_bagua.collectives import BaguaCollectives as BaguaCollectives
    from torchrelay_bagua.environment import BaguaEnvironment as BaguaEnvironment
    from torchrelay_bagua.strategy import BaguaStrategy as BaguaStrategy
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "AsyncAverage": ".algorithms",
            "BaguaCollectives": ".collectives",
            "BaguaEnvironment": ".environment",
            "BaguaStrategy": ".strategy",
            "Bytegrad": ".algorithms",
            "Decentralized": ".algorithms",
            "GradientAllreduce": ".algorithms",
            "LowPrecisionDecentralized": ".algorithms",
            "QAdam": ".algorithms",
        },
    )
