"""Test equipment: what FairScale's FullyShardedDataParallel asks of CUDA, done by the CPU, one thing after the other.

Nothing but tests may use it: streams that order nothing, on a device that has none, and collectives under names that
gloo knows.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import torch

from torchrelay_fairscale.fully_sharded import DDPFullyShardedStrategy


class Stream:
    """Stands for a stream where everything is done at once."""

    def wait_stream(self, other: Any) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nothing is under way."""


@cache
def equip() -> None:
    """Let FairScale take the CPU for a device with streams, in this process."""
    stream = Stream()
    cuda: Any = torch.cuda
    cuda.Stream = Stream
    cuda.current_stream = lambda *_: stream
    cuda.stream = lambda *_: nullcontext()
    cuda.synchronize = lambda *_: None
    tensor: Any = torch.Tensor
    tensor.record_stream = lambda self, stream: None
    tensor.pin_memory = lambda self, *_: self
    sharded = import_module("fairscale.nn.data_parallel.fully_sharded_data_parallel")
    bucketer = import_module("fairscale.internal.reduce_scatter_bucketer")
    sharded.enable_nccl_base_collectives = bucketer.enable_nccl_base_collectives = False
    kind = sharded.FullyShardedDataParallel
    usual = kind._setup_streams

    def set_up(self: Any) -> None:
        usual(self)
        if self._is_root:
            streams = defaultdict(lambda: stream)
            for unit in self.modules():
                if isinstance(unit, kind):
                    unit._streams = streams

    kind._setup_streams = set_up


class StreamlessStrategy(DDPFullyShardedStrategy):
    """Fully sharded on the CPU, for tests."""

    runs_on = ("cpu",)

    def setup_environment(self) -> None:
        equip()
        super().setup_environment()
