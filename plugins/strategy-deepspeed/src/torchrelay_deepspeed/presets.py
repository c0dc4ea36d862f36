"""What the aliases stand for. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from torchrelay_deepspeed.config import Offload, Preset
from torchrelay_deepspeed.plugin import STAGES

NVME = "/local_nvme"
"""Where `deepspeed_stage_3_offload_nvme` offloads to, as in Lightning, unless a configuration names another folder."""

_CPU, _NVME = Offload(device="cpu"), Offload(device="nvme", path=NVME)

PRESETS: Mapping[str, Preset] = {
    preset.alias: preset
    for preset in (
        *(Preset(alias=f"deepspeed_stage_{stage}", stage=stage) for stage in STAGES),
        Preset(alias="deepspeed_stage_2_offload", stage=2, offload_optimizer=_CPU),
        Preset(
            alias="deepspeed_stage_3_offload",
            stage=3,
            offload_optimizer=_CPU,
            offload_parameters=_CPU,
        ),
        Preset(
            alias="deepspeed_stage_3_offload_nvme",
            stage=3,
            offload_optimizer=_NVME,
            offload_parameters=_NVME,
        ),
    )
}
"""Each alias but `deepspeed`, which follows the environment, or is stage 2."""
