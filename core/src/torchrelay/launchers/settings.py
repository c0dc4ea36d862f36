"""The random numbers and the settings of a process, taken over by the processes that it launches."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Settings:
    """What makes a computation repeatable, in one process.

    Args:
        python_rng: state of `random`.
        numpy_rng: state of `numpy.random`, if numpy is loaded.
        torch_rng: state of torch's generator on the CPU.
        default_dtype: type of new floating-point tensors.
        deterministic: whether torch may use deterministic algorithms only.
        warn_only: whether it merely warns where it has none.
        cudnn_deterministic: the same for cuDNN.
        cudnn_benchmark: whether cuDNN tries its algorithms and takes the fastest.
    """

    python_rng: Any
    numpy_rng: Any
    torch_rng: torch.Tensor
    default_dtype: torch.dtype
    deterministic: bool
    warn_only: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool

    @classmethod
    def capture(cls) -> Settings:
        """This process's."""
        numpy = sys.modules.get("numpy")
        return cls(
            python_rng=random.getstate(),
            numpy_rng=None if numpy is None else numpy.random.get_state(),
            torch_rng=torch.get_rng_state(),
            default_dtype=torch.get_default_dtype(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
            cudnn_deterministic=torch.backends.cudnn.deterministic,
            cudnn_benchmark=torch.backends.cudnn.benchmark,
        )

    def restore(self) -> None:
        """Make them this process's."""
        random.setstate(self.python_rng)
        if self.numpy_rng is not None:
            import numpy as np

            np.random.set_state(self.numpy_rng)
        torch.set_rng_state(self.torch_rng)
        torch.set_default_dtype(self.default_dtype)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
