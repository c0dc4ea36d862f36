"""DeepSpeed strategies for torchrelay: ZeRO stages 0 to 3, offload to CPU memory and NVMe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrelay.lazy import attach

if TYPE_CHECKING:
    from torchrelay_deepspeed.config import ActivationCheckpointing as ActivationCheckpointing
    from torchrelay_deepspeed.config import AsyncIO as AsyncIO
    from torchrelay_deepspeed.config import DeepSpeedConfig as DeepSpeedConfig
    from torchrelay_deepspeed.config import LossScaling as LossScaling
    from torchrelay_deepspeed.config import Named as Named
    from torchrelay_deepspeed.config import Offload as Offload
    from torchrelay_deepspeed.config import OptimizerOffload as OptimizerOffload
    from torchrelay_deepspeed.config import ParameterOffload as ParameterOffload
    from torchrelay_deepspeed.strategy import DeepSpeedStrategy as DeepSpeedStrategy
    from torchrelay_deepspeed.vendor import gathered as gathered
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "ActivationCheckpointing": ".config",
            "AsyncIO": ".config",
            "DeepSpeedConfig": ".config",
            "DeepSpeedStrategy": ".strategy",
            "LossScaling": ".config",
            "Named": ".config",
            "Offload": ".config",
            "OptimizerOffload": ".config",
            "ParameterOffload": ".config",
            "gathered": ".vendor",
        },
    )
