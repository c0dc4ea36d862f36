"""The wrapper."""

from __future__ import annotations

from bagua.torch_api.data_parallel.distributed import (
    DistributedDataParallel as DistributedDataParallel,
)
