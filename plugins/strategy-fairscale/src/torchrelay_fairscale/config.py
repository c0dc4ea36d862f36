"""The options of fully sharded data parallel, as a frozen dataclass. Imports neither torch nor FairScale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.errors import ConfigurationError

COMPUTE_DTYPES: Mapping[str, str] = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
"""Precision of the Trainer -> the format in which it computes, by its name in torch."""

_FLAGS = (
    "flatten_parameters",
    "reshard_after_forward",
    "cpu_offload",
    "move_grads_to_cpu",
    "fp32_reduce_scatter",
    "whole_after_fit",
)
_UNDECIDED = ("flatten_parameters", "move_grads_to_cpu")
_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, kw_only=True)
class FullyShardedConfig:
    """How a model is cut into units, and how each is sharded.

    Attributes:
        min_num_params: submodules of at least so many parameters become units of their own, whose weights are
            gathered when they compute and freed afterwards; the rest is one more.
        policy: decides instead of `min_num_params`; called as FairScale calls an `auto_wrap_policy`, with `module`,
            `recurse`, `unwrapped_params` and `module_is_root` by keyword.
        flatten_parameters: make one tensor of all parameters of a unit. That cannot be where some are frozen, or of
            another format or group of the optimizer than others: None leaves such a unit's parameters apart.
        reshard_after_forward: free a unit's weights after forward and gather them again for backward.
        cpu_offload: keep weights, gradients and the optimizer's state in CPU memory.
        move_grads_to_cpu: keep gradients there alone; as `cpu_offload` when None.
        bucket_cap_mb: size of the buffers in which small gradients are reduced together, in MiB; 0 for none.
        compute_dtype: "float16" or "bfloat16"; what the Trainer's precision says when None, and never another.
        buffer_dtype: format of buffers in 16-bit precisions; that of computation when None.
        fp32_reduce_scatter: reduce gradients in fp32 in 16-bit precisions.
        whole_after_fit: give each process the whole module when a run is over. False leaves parameters of shape (0,),
            for a model that no process has room for: load weights from a checkpoint.

    Raises:
        ConfigurationError: a value cannot be.
    """

    min_num_params: int = 100_000_000
    policy: Callable[..., bool] | None = None
    flatten_parameters: bool | None = None
    reshard_after_forward: bool = True
    cpu_offload: bool = False
    move_grads_to_cpu: bool | None = None
    bucket_cap_mb: int = 25
    compute_dtype: str | None = None
    buffer_dtype: str | None = None
    fp32_reduce_scatter: bool = False
    whole_after_fit: bool = True

    def __post_init__(self) -> None:
        for name in _FLAGS:
            value = getattr(self, name)
            unset = value is None and name in _UNDECIDED
            if not isinstance(value, bool) and not unset:
                raise self._wrong(name, "True or False")
        for name, least in (("min_num_params", 1), ("bucket_cap_mb", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise self._wrong(name, f"a whole number from {least}")
        if self.cpu_offload and self.move_grads_to_cpu is False:
            raise ConfigurationError(
                "FullyShardedConfig: cpu_offload=True updates weights in CPU memory, where their gradients have to be; "
                "leave out move_grads_to_cpu=False"
            )
        if self.policy is not None and not callable(self.policy):
            raise self._wrong("policy", "a function")
        for name, known in (("compute_dtype", _DTYPES[:2]), ("buffer_dtype", _DTYPES)):
            if getattr(self, name) not in (None, *known):
                raise self._wrong(name, " or ".join(map(repr, known)))

    def _wrong(self, name: str, wanted: str) -> ConfigurationError:
        return ConfigurationError(
            f"FullyShardedConfig: {name}={getattr(self, name)!r} must be {wanted}"
        )

    def contradictions(self, precision: str) -> list[str]:
        """What does not go with a precision of the Trainer, one sentence each."""
        computes = COMPUTE_DTYPES.get(precision)
        found = []
        if self.compute_dtype not in (None, computes):
            wanted = {dtype: name for name, dtype in COMPUTE_DTYPES.items()}
            found.append(
                f"compute_dtype={self.compute_dtype!r} contradicts precision={precision!r} of the Trainer; leave it "
                f"out, or write Trainer(precision={wanted[str(self.compute_dtype)]!r})"
            )
        for name, asked in (
            ("fp32_reduce_scatter", self.fp32_reduce_scatter),
            ("buffer_dtype", self.buffer_dtype),
        ):
            if asked and computes is None:
                found.append(
                    f"{name}={asked!r} is of use in 16 bits alone, and precision={precision!r}; leave it out, or take "
                    "bf16-mixed or 16-mixed"
                )
        return found

    def sharding(self, precision: str) -> dict[str, Any]:
        """Arguments of `FullyShardedDataParallel` but for its module and devices; formats by their names."""
        return {
            "flatten_parameters": self.flatten_parameters,
            "reshard_after_forward": self.reshard_after_forward,
            "move_params_to_cpu": self.cpu_offload,
            "move_grads_to_cpu": self.move_grads_to_cpu,
            "bucket_cap_mb": self.bucket_cap_mb,
            "mixed_precision": precision in COMPUTE_DTYPES,
            "fp32_reduce_scatter": self.fp32_reduce_scatter,
            "compute_dtype": COMPUTE_DTYPES.get(precision),
            "buffer_dtype": self.buffer_dtype,
        }
