"""What is behind the wrapper: hooks on the module, its parameters and the optimizers."""

from __future__ import annotations

from types import MethodType

import torch
from bagua_simulated.algorithms import ensure_gradient
from bagua_simulated.machine import machine
from bagua_simulated.objects import leave_on

from bagua.torch_api import communication


class BaguaDistributedDataParallel:
    def __init__(
        self,
        module,
        optimizers,
        algorithm,
        process_group,
        bagua_module_name=None,
        gradient_as_bucket_view=True,
        find_unused_parameters=False,
    ):
        self.module, self.optimizers, self.name = module, optimizers, bagua_module_name
        self.bagua_algorithm = algorithm.reify(process_group)
        self.flatten, self.find_unused = gradient_as_bucket_view, find_unused_parameters
        self.require_backward_grad_sync = True
        self.counter, self._queued, self._used = 0, False, set()
        self.registered, self.buckets, self._in_use = [], [], set()
        for hook in vars(module).pop("_simulated_hooks", []):
            hook.remove()
        self._hooks = [module.register_forward_pre_hook(self._before_forward)]
        self._begin()
        self._watch_parameters()
        for optimizer in optimizers:
            self._replace_step(optimizer)
        module._simulated_hooks = self._hooks

    def parameters(self):
        """Trained parameters by name, each once; a root's own get a name that its gradient is not known by."""
        found = {}
        for prefix, module in self.module.named_modules():
            for name, each in module.named_parameters(recurse=False):
                if each.requires_grad and id(each) not in found:
                    found[id(each)] = (f"{prefix}.{name}", each)
        if self.find_unused and self._used:
            return [pair for pair in found.values() if pair[0] in self._used]
        return list(found.values())

    # --- construction -----------------------------------------------------------------------------------

    def _begin(self):
        for name, each in self.parameters():
            if each.dtype not in (torch.float32, torch.float16):
                raise ValueError(f"simulated: unsupported data type {each.dtype}")
            leave_on(each, name, self.name)
            communication.broadcast(each.data, src=0)
        for optimizer in self.optimizers:
            self._send_state(optimizer)
        self.registered = self.parameters()
        self._reset_buckets()

    def _reset_buckets(self):
        # Of all that are registered, whatever is used.
        self.buckets = self.bagua_algorithm.buckets(self)
        self._in_use = {name for name, _ in self.parameters()}

    def _delay_allreduce(self):
        for name, each in self.parameters():
            self.bagua_algorithm.ready(self, name, each)
            self.bagua_algorithm.after_backward(self)

    def _send_state(self, optimizer):
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("simulated: cannot broadcast torch.optim.LBFGS state")
        if not optimizer.state:
            for group in optimizer.param_groups:
                for each in group["params"]:
                    if each.requires_grad:
                        ensure_gradient(each)
            return
        for group in optimizer.param_groups:
            for each in group["params"]:
                for key, value in optimizer.state[each].items():
                    if isinstance(value, torch.Tensor):
                        # On a GPU torch keeps the count of steps on the host, unless it is capturable.
                        on_host = key == "step" and not (
                            group.get("capturable") or group.get("fused")
                        )
                        assert not on_host, "simulated: the tensor must be CUDA and dense"
                        communication.broadcast(value, src=0)
        communication.broadcast_object([group["lr"] for group in optimizer.param_groups], src=0)

    def _replace_step(self, optimizer):
        if not hasattr(optimizer, "_bagua_original_step"):
            optimizer._bagua_original_step = optimizer.step

        def step(own, *args, **kwargs):
            result = own._bagua_original_step(*args, **kwargs)
            self.bagua_algorithm.after_step(self, own)
            return result

        optimizer.step = MethodType(step, optimizer)

    # --- steps ------------------------------------------------------------------------------------------

    def _before_forward(self, module, inputs):
        self._used = set()
        self.counter += module.training
        if self.bagua_algorithm.need_reset() and module.training:
            self._begin()
        if module.training:
            self.bagua_algorithm.before_forward(self)
        self._queued = False

    def _watch_parameters(self):
        # Gradients are known by the names that named_parameters gives, which for a root's own lack the dot.
        known = dict(self.module.named_parameters())
        for name, each in known.items():
            if each.requires_grad:
                self._hooks.append(each.register_post_accumulate_grad_hook(self._hook(name)))

    def _hook(self, name):
        def ready(parameter):
            if not self.require_backward_grad_sync:
                return
            if self.find_unused:
                self._used.add(name)
            self.bagua_algorithm.ready(self, name, parameter)
            if not self._queued:
                self._queued = True
                torch.autograd.Variable._execution_engine.queue_callback(self._after_backward)

        return ready

    def _after_backward(self):
        self.bagua_algorithm.after_backward(self)
        if self.find_unused and self._used != self._in_use:
            self._reset_buckets()
            self._delay_allreduce()
        assert machine.device is not None
