"""The machine on which Bagua seems to run, and the switch that lets the processor stand in for its GPUs."""

from __future__ import annotations

import torch

SENT = (torch.float32, torch.float16, torch.uint8, torch.int64)


class Machine:
    """Which device a process has chosen, and of what kind its tensors have to be.

    Attributes:
        device: index that was chosen; None before.
        events: what has been communicated, in order.
        marked: gradients that have been marked as ready.
        kind: type of the devices whose tensors may be sent: "cuda", unless the processor stands in for them.
    """

    def __init__(self) -> None:
        self.device: int | None = None
        self.kind = "cuda"
        self.service: object = None
        self.store: object = None
        self.groups = self.wires = self.marked = 0
        self.events: list[str] = []

    def choose(self, index: int, stands_in: str = "cuda") -> None:
        """Choose a device, as `torch.cuda.set_device` does; declare what stands in for GPUs."""
        self.device, self.kind = index, stands_in

    def connect(self, local_rank: int) -> None:
        """Make a communicator, which is on the device whose index is the local rank."""
        assert self.device == local_rank, (
            f"simulated NCCL error: tensors are on device {self.device}, the communicator on {local_rank}"
        )

    def check(self, tensor: torch.Tensor) -> None:
        """Refuse what Bagua does not send."""
        assert tensor.device.type == self.kind, "simulated: the tensor must be CUDA and dense"
        assert not tensor.is_sparse, "simulated: the tensor must be CUDA and dense"
        if tensor.dtype not in SENT:
            raise ValueError(f"simulated: unsupported data type {tensor.dtype}")


machine = Machine()
