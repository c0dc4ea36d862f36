"""Simulated: tensors on a device of their own, whose memory and arithmetic are the processor's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Seconds that the first operation on a class of tensors would take, in which other ranks wait.
import torch.fx.experimental.symbolic_shapes
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from", "aten::set_")
"""What takes tensors of two devices."""

generator = torch.Generator()
"""The device's random numbers."""

libraries: list[Any] = []
"""Registrations live as long as these."""


class HPUTensor(torch.Tensor):
    """A tensor on the simulated device; `raw` is its memory."""

    raw: torch.Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> HPUTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device("hpu", 0),
            requires_grad=False,
        )
        made.raw = raw
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"hpu({self.raw!r})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError(
            "simulated: a tensor on an HPU is written; move it to the CPU first, as checkpoints hold only such"
        )

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, args, kwargs or {})


@contextmanager
def traced() -> Iterator[None]:
    """Let torch's compiler follow the device's tensors, through their memory.

    A move of a module keeps its parameters meanwhile: torch swaps what can be followed so.
    """
    added = {"__tensor_flatten__": _flatten, "__tensor_unflatten__": staticmethod(_unflatten)}
    for name, value in added.items():
        setattr(HPUTensor, name, value)
    try:
        yield
    finally:
        for name in added:
            delattr(HPUTensor, name)


def _flatten(tensor: HPUTensor) -> tuple[list[str], None]:
    return ["raw"], None


def _unflatten(inner: Any, context: None, size: Any, stride: Any) -> HPUTensor:
    return HPUTensor(inner["raw"])


def run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of which a tensor, an argument or the result is on the device.

    Raises:
        RuntimeError: tensors of two devices, or a device that is not there.
    """
    name = op._schema.name
    seen: dict[int, HPUTensor] = {}
    foreign: list[torch.Tensor] = []

    def inward(value: Any) -> Any:
        if isinstance(value, HPUTensor):
            seen[id(value.raw)] = value
            return value.raw
        if isinstance(value, torch.Tensor) and value.dim():
            foreign.append(value)
        return value

    def outward(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return seen[id(value)] if id(value) in seen else HPUTensor(value)

    device = kwargs.get("device")
    if device is not None and device.type == "hpu":
        check_index(device)
    args, inner = tree_map(inward, (args, kwargs))
    if foreign and seen and name not in COPIES:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} found hpu and {foreign[0].device}"
        )
    if device is not None:
        inner = {**inner, "device": torch.device("cpu")}
    if inner.pop("pin_memory", False):
        raise RuntimeError("simulated: memory of an HPU cannot be pinned")
    found = (
        at_random(op, args, inner)
        if torch.Tag.nondeterministic_seeded in op.tags
        else op(*args, **inner)
    )
    leaves = device is not None and device.type == "cpu"
    if name == "aten::copy_":
        return outward(found) if id(found) in seen else found
    if name == "aten::_to_copy" and found is args[0]:
        found = found.clone()
    return found if leaves else tree_map(outward, found)


def at_random(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the device's random numbers; the processor's stay what they were."""
    if kwargs.get("generator") is not None:
        return op(*args, **kwargs)
    before = torch.get_rng_state()
    torch.default_generator.set_state(generator.get_state())
    try:
        return op(*args, **kwargs)
    finally:
        generator.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


def check_index(device: torch.device) -> None:
    """A process has one device.

    Raises:
        RuntimeError: another one is asked for.
    """
    if device.index not in (None, 0):
        raise RuntimeError(
            f"simulated: {device} is not there; a process has one HPU, without an index"
        )


def register(module: Any) -> None:
    """Make torch know the device."""
    _setup_privateuseone_for_python_backend("hpu", backend_module=module)
    makers = torch.library.Library("aten", "IMPL")
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        op = _maker(full)
        if op is not None:
            makers.impl(op, _kernel(op), "PrivateUse1")
    # torch.tensor(values, device="hpu") comes here directly.
    makers.impl("_copy_from", _copy_from, "PrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    autocast = torch.library.Library("aten", "IMPL")
    for op in LOWER:
        autocast.impl(op, _cast(op, None), "AutocastPrivateUse1")
    for op in HIGHER:
        autocast.impl(op, _cast(op, torch.float32), "AutocastPrivateUse1")
    libraries.extend([makers, rest, autocast])


def _maker(full: str) -> Any:
    """An operation that makes a tensor out of nothing, by its full name."""
    if not full.startswith("aten::"):
        return None
    name, _, overload = full.removeprefix("aten::").partition(".")
    try:
        op = getattr(getattr(torch.ops.aten, name), overload or "default")
    except (AttributeError, RuntimeError):
        return None
    kinds = {str(each.type) for each in op._schema.arguments}
    places = [each.name for each in op._schema.arguments]
    returns = [str(each.type) for each in op._schema.returns]
    if returns != ["Tensor"] or "device" not in places or any("Tensor" in kind for kind in kinds):
        return None
    if torch._C._dispatch_has_kernel_for_dispatch_key(full, "CompositeImplicitAutograd"):
        return None
    return op


def _kernel(op: Any) -> Any:
    def make(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("device", torch.device("hpu"))
        return run(op, args, kwargs)

    return make


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    return run(torch.ops.aten.copy_.default, (target, source, non_blocking), {})


# --- autocast ------------------------------------------------------------------------------------------

aten = torch.ops.aten

LOWER = [
    aten.linear.default,
    aten.matmul.default,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
]
"""What is computed in autocast's format; a few of those that the vendor lists."""

HIGHER = [aten.mse_loss.default]
"""What is computed in 32 bits."""


def _cast(op: Any, dtype: torch.dtype | None) -> Any:
    def cast(*args: Any, **kwargs: Any) -> Any:
        wanted = dtype or torch.get_autocast_dtype("hpu")
        with torch.autocast("hpu", enabled=False):
            fit = [
                each.to(wanted)
                if isinstance(each, torch.Tensor) and each.is_floating_point()
                else each
                for each in args
            ]
            return op(*fit, **kwargs)

    return cast
