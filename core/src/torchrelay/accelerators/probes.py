"""How many devices there are, found without importing torch or touching a driver's state.

A probe runs in the launching process, before any other is made: had it created a CUDA context, or
only called `cuInit`, a forked child could no longer use the GPU.
"""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchrelay.plugin.specs import Hardware

KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
"""Where Linux lists the compute nodes of AMD's driver; a GPU has `simd_count` above 0."""

NVML = "libnvidia-ml.so.1" if os.name == "posix" else "nvml.dll"
"""NVIDIA's management library, which comes with the driver."""

_UUID_BYTES = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE in nvml.h


def cpu() -> Hardware:
    """The cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return Hardware(count=len(usable(0)) if usable else os.cpu_count() or 1)


def cuda() -> Hardware:
    """The GPUs that torch's `cuda` device would see; AMD's with a ROCm build of torch."""
    build = torch_build()
    if build is None:
        return Hardware(count=0, reason="torch is not installed: pip install torch")
    if build.get("hip"):
        return _rocm()
    if not build.get("cuda"):
        return Hardware(
            count=0,
            reason=f"torch {build.get('__version__', '')} is built without CUDA; "
            "https://pytorch.org/get-started/locally names the build for your driver",
        )
    try:
        uuids = nvml_uuids(NVML)
    except OSError as error:
        return Hardware(count=0, reason=str(error))
    return _visible(uuids, "CUDA_VISIBLE_DEVICES", "NVIDIA GPU")


def mps() -> Hardware:
    """The GPU of an Apple silicon Mac."""
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return Hardware(count=0, reason="only Apple silicon Macs have one")
    return Hardware(count=1)


def torch_build() -> Mapping[str, str | None] | None:
    """What torch's `version.py` says (`__version__`, `cuda`, `hip`); None without torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    facts: dict[str, str | None] = {}
    source = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                facts[target.id] = None if node.value.value is None else str(node.value.value)
    return facts


def nvml_uuids(library: str) -> tuple[str, ...]:
    """UUIDs of the machine's NVIDIA GPUs, in the driver's order.

    NVML only reads: `nvmlInit` makes no CUDA context, so a fork afterwards is safe.

    Raises:
        OSError: there is no driver, or it does not answer.
    """
    try:
        nvml = ctypes.CDLL(library)
    except OSError as error:
        raise OSError(f"no NVIDIA driver found ({library} does not load)") from error
    _check(nvml, nvml.nvmlInit_v2())
    try:
        count = ctypes.c_uint()
        _check(nvml, nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        return tuple(_uuid(nvml, index) for index in range(count.value))
    finally:
        nvml.nvmlShutdown()


def visible_devices(value: str | None, uuids: Sequence[str]) -> tuple[int, ...]:
    """The devices that a `*_VISIBLE_DEVICES` variable leaves, by the CUDA Programming Guide.

    Indices or unambiguous starts of UUIDs, separated by commas; the first that names no device
    ends the list; a repeated one voids it. A process uses at most one MIG instance.

    Args:
        value: the variable's value; None where it is not set.
        uuids: UUID of each device.
    """
    if value is None:
        return tuple(range(len(uuids)))
    seen: list[int] = []
    for item in (part.strip() for part in value.split(",")):
        if item.startswith("MIG-"):
            return (0,) if uuids and not seen else tuple(seen)
        matches = [i for i, uuid in enumerate(uuids) if item in (str(i), uuid)] or [
            i for i, uuid in enumerate(uuids) if item.startswith("GPU-") and uuid.startswith(item)
        ]
        if len(matches) != 1:
            break
        if matches[0] in seen:
            return ()
        seen.append(matches[0])
    return tuple(seen)


def _rocm() -> Hardware:
    nodes = [path.read_text() for path in sorted(KFD_NODES.glob("*/properties"))]
    gpus = [node for node in nodes if "simd_count" in node and "simd_count 0\n" not in node]
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    variable = next((name for name in names if name in os.environ), names[0])
    return _visible([""] * len(gpus), variable, "AMD GPU")


def _visible(uuids: Sequence[str], variable: str, what: str) -> Hardware:
    if not uuids:
        return Hardware(count=0, reason=f"no {what} found")
    value = os.environ.get(variable)
    count = len(visible_devices(value, uuids))
    reason = "" if count else f"{variable}={value!r} hides every {what} of the {len(uuids)} here"
    return Hardware(count=count, reason=reason)


def _uuid(nvml: ctypes.CDLL, index: int) -> str:
    handle = ctypes.c_void_p()
    _check(nvml, nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
    buffer = ctypes.create_string_buffer(_UUID_BYTES)
    _check(nvml, nvml.nvmlDeviceGetUUID(handle, buffer, ctypes.c_uint(_UUID_BYTES)))
    return buffer.value.decode("ascii", "replace")


def _check(nvml: ctypes.CDLL, status: int) -> None:
    if status != 0:
        nvml.nvmlErrorString.restype = ctypes.c_char_p
        text = nvml.nvmlErrorString(status).decode("ascii", "replace")
        raise OSError(f"the NVIDIA driver does not answer: {text}")
