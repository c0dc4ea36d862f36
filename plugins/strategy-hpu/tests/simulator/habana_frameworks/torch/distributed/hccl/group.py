"""Simulated: a process group over gloo that takes what HCCL takes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import _create_work_from_future

from habana_frameworks.torch.hpu.device import HPUTensor
from habana_frameworks.torch.utils.internal import is_lazy

REDUCED = (torch.float32, torch.bfloat16, torch.float16)
"""Formats that are combined; eager mode takes 32-bit integers too."""

OPERATIONS = (dist.ReduceOp.SUM, dist.ReduceOp.MIN, dist.ReduceOp.MAX)


def _memory(tensors):
    for tensor in tensors:
        if not isinstance(tensor, HPUTensor):
            raise RuntimeError(
                f"simulated: HCCL takes tensors on an HPU, and one is on {tensor.device}"
            )
    return [tensor.raw for tensor in tensors]


def _done(result):
    future = torch.futures.Future()
    future.set_result(result)
    return _create_work_from_future(future)


class ProcessGroupHCCL(dist.ProcessGroup):
    """One device a process; every operation is finished when its call returns."""

    _device_types = [torch.device("hpu")]  # noqa: RUF012

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    def getBackendName(self):
        return "hccl"

    def allreduce(self, tensors, opts=None):
        opts = opts or dist.AllreduceOptions()
        self._combine(tensors, opts.reduceOp, lambda memory: self._gloo.allreduce(memory, opts))
        return _done(tensors)

    def allreduce_coalesced(self, tensors, opts=None):
        return self.allreduce(tensors)

    def broadcast(self, tensors, opts):
        for memory in _memory(tensors):
            self._through(memory, lambda buffer: self._gloo.broadcast([buffer], opts).wait())
        return _done(tensors)

    def allgather(self, output, inputs, opts=None):
        for row, tensor in zip(output, inputs, strict=True):
            (memory,) = _memory([tensor])
            found = [torch.empty_like(memory.contiguous()) for _ in row]
            self._gloo.allgather([found], [memory.contiguous()]).wait()
            for into, each in zip(_memory(row), found, strict=True):
                into.copy_(each)
        return _done([each for row in output for each in row])

    def barrier(self, opts=None):
        self._gloo.barrier().wait()
        return _done([])

    def _combine(self, tensors, operation, call):
        memories = _memory(tensors)
        if all(operation != each for each in OPERATIONS):
            raise RuntimeError("simulated: Unsupported ReduceOp for HCCL process group")
        taken = REDUCED if is_lazy() else (*REDUCED, torch.int32)
        for memory in memories:
            if memory.dtype not in taken:
                raise RuntimeError(f"simulated: HCCL does not combine {memory.dtype}")
            self._through(memory, lambda buffer: call([buffer]).wait())

    @staticmethod
    def _through(memory, call):
        with torch.no_grad():
            buffer = memory.contiguous().clone()
            call(buffer)
            memory.copy_(buffer)
