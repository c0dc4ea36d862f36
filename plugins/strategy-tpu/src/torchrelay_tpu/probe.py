"""How many devices XLA would drive here, found without torch, torch-xla or the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torchrelay.plugin import Hardware

PCI = Path("/sys/bus/pci/devices")
"""Where Linux lists what is attached through PCI."""

GOOGLE = "0x1ae0"
"""Google's vendor id on the PCI bus."""

CORES = {
    **dict.fromkeys(("0x0027",), 2),
    **dict.fromkeys(("0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"), 1),
}
"""PCI device id of a TPU chip -> the devices that XLA sees in it: two in TPU v2 and v3, one from v4 on.

https://github.com/pytorch/xla/blob/v2.9.0/torch_xla/_internal/tpu.py, `_TPU_PCI_DEVICE_IDS` and
`num_logical_cores_per_chip`.
"""


def probe() -> Hardware:
    """The TPU devices of this machine, or the replicas on the processor where `PJRT_DEVICE=CPU` asks for those."""
    return found(os.environ, PCI)


def on_processor() -> bool:
    """Whether XLA drives the processor here."""
    return os.environ.get("PJRT_DEVICE") == "CPU"


def found(environ: Mapping[str, str], pci: Path) -> Hardware:
    """What `probe` finds.

    Args:
        environ: environment variables.
        pci: folder with one for each PCI device.
    """
    kind = environ.get("PJRT_DEVICE", "TPU")
    if kind == "CPU":
        return Hardware(count=int(environ.get("CPU_NUM_DEVICES", "1")))
    if kind != "TPU":
        return Hardware(
            count=0, reason=f"PJRT_DEVICE={kind} is not run by torchrelay-tpu; unset it for TPUs"
        )
    count = sum(_devices(each) for each in pci.glob("*/vendor"))
    if count:
        return Hardware(count=count)
    return Hardware(
        count=0,
        reason="no TPU is attached to this machine (PJRT_DEVICE=CPU lets XLA run on the processor, to try it)",
    )


def _devices(vendor: Path) -> int:
    if vendor.read_text("ascii").strip() != GOOGLE:
        return 0
    return CORES.get(vendor.with_name("device").read_text("ascii").strip(), 0)
