"""Simulated: the compiler "hpu_backend", which runs the graphs of torch's tracing as they are.

The vendor's registers itself once torch's compiler is imported; here torch finds it by an entry point, as late.
"""

from __future__ import annotations

from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from habana_frameworks.torch.utils.internal import is_lazy

compiled: list[str] = []
"""Which graphs were compiled: "forward", "backward", and "inference" where nothing is differentiated."""


def _compiler(name):
    def compile_graph(graph_module, example_inputs):
        compiled.append(name)
        return make_boxed_func(graph_module.forward)

    return compile_graph


def hpu_backend(graph_module, example_inputs, **kwargs):
    """Compile a graph and its backward pass.

    Raises:
        RuntimeError: in lazy mode, in which the bridge makes the graphs itself.
    """
    if is_lazy():
        raise RuntimeError(
            "simulated: hpu_backend is for eager mode, and the bridge is in lazy mode"
        )
    return aot_autograd(
        fw_compiler=_compiler("forward"),
        bw_compiler=_compiler("backward"),
        inference_compiler=_compiler("inference"),
    )(graph_module, example_inputs)
