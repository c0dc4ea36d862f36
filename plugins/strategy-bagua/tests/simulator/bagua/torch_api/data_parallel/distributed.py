"""The wrapper with the interface of torch's DistributedDataParallel."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

from torch import nn

import bagua.torch_api.communication as communication
from bagua.torch_api.algorithms.gradient_allreduce import GradientAllReduceAlgorithm
from bagua.torch_api.data_parallel.bagua_distributed import BaguaDistributedDataParallel


class DistributedDataParallel_V1_9_0(nn.Module):
    def __init__(
        self,
        module,
        device_ids=None,
        output_device=None,
        dim=0,
        broadcast_buffers=True,
        process_group=None,
        bucket_cap_mb=25,
        find_unused_parameters=False,
        check_reduction=False,
        gradient_as_bucket_view=True,
        optimizers=[],  # noqa: B006 - the signature is the vendor's
        algorithm=GradientAllReduceAlgorithm(),  # noqa: B008
    ):
        super().__init__()
        assert any(each.requires_grad for each in module.parameters()), (
            "simulated: nothing is trained"
        )
        self.module = module
        self.inner = BaguaDistributedDataParallel(
            module,
            optimizers,
            algorithm,
            process_group or communication._default_pg,
            getattr(module, "bagua_module_name", f"{type(self).__name__}_{id(module)}"),
            gradient_as_bucket_view,
            find_unused_parameters,
        )

    def forward(self, *inputs, **kwargs):
        return self.module(*inputs, **kwargs)

    @contextmanager
    def no_sync(self):
        before = self.inner.require_backward_grad_sync
        self.inner.require_backward_grad_sync = False
        try:
            yield
        finally:
            self.inner.require_backward_grad_sync = before

    @property
    def bagua_algorithm(self):
        return self.inner.bagua_algorithm


def DistributedDataParallel(
    module,
    device_ids=None,
    output_device=None,
    dim=0,
    broadcast_buffers=True,
    process_group=None,
    bucket_cap_mb=25,
    find_unused_parameters=False,
    check_reduction=False,
    gradient_as_bucket_view=True,
    optimizers=[],  # noqa: B006 - the signature is the vendor's
    algorithm=GradientAllReduceAlgorithm(),  # noqa: B008
):
    unsupported = (device_ids, output_device, dim or None, None if broadcast_buffers else False)
    if any(each is not None for each in unsupported) or check_reduction:
        warnings.warn(
            "simulated: Bagua falls back to torch's DistributedDataParallel", stacklevel=2
        )
        return nn.parallel.DistributedDataParallel(module, device_ids=device_ids)
    return DistributedDataParallel_V1_9_0(
        module,
        process_group=process_group,
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=gradient_as_bucket_view,
        optimizers=optimizers,
        algorithm=algorithm,
    )
