"""Simulated: the wrapper of a model, its life on a device, and the calls of it."""

from __future__ import annotations

import copy
import os
import weakref
from types import MethodType
from typing import Any

import torch
from torch import nn

from poptorch import device, hardware, optim
from poptorch.enums import OutputMode
from poptorch.options import Options


class Error(Exception):
    """Simulated: what PopTorch raises."""


def identity_loss(x, reduction):
    """Mark the loss."""
    assert reduction in ("sum", "mean", "none"), "Unsupported reduction type!"
    loss = {"sum": torch.sum, "mean": torch.mean, "none": torch.clone}[reduction](x)
    device.marked.append(loss)
    return loss


def trainingModel(model, options=None, optimizer=None):
    """Wrap a model for training."""
    return PoplarExecutor(model, options, True, optimizer)


def inferenceModel(model, options=None):
    """Wrap a model for inference."""
    return PoplarExecutor(model, options, False, None)


NOT_COMPILED = "Model has not been compiled or has been destroyed."


class PoplarExecutor:
    def __init__(self, model: Any, options: Any, training: bool, optimizer: Any) -> None:
        options = Options() if options is None else options
        if options.output_mode == OutputMode.Default.value:
            options.outputMode(OutputMode.Final if training else OutputMode.All)
        if not training and options.Training.gradient_accumulation != 1:
            raise AssertionError("Gradient accumulation should be left to its default value (1)")
        if training and getattr(type(model), "_is_poptorch", False):
            raise RuntimeError("Model has already been wrapped in 'poptorch.trainingModel'.")
        options._freeze()
        self._user_model, self._options, self._training = model, options, training
        self._model = copy.copy(model)  # Python runs this one
        self._program: device.Program | None = None
        self._attached = self._dirty = self._state_is_newer = False
        self._optimizer: Any = None
        self._snapshot: tuple[list[dict[str, Any]], str] | None = None
        self._rng: torch.Tensor | None = None
        self._locked: list[tuple[torch.Size, torch.dtype]] = []
        if training:
            self._wrap()
            self.setOptimizer(
                torch.optim.SGD(model.parameters(), lr=0.01) if optimizer is None else optimizer
            )

    # --- wrapping ---------------------------------------------------------------------------------------

    def _wrap(self) -> None:
        parent, model = weakref.ref(self), self._user_model

        def sync() -> None:
            executor = parent()
            if executor is not None:
                executor.copyWeightsToHostIfNeeded()

        class PoptorchModel(type(model)):
            _is_poptorch = True

            def __getattribute__(self, name: str) -> Any:
                if name in ("_buffers", "_parameters", "forward"):
                    sync()
                return object.__getattribute__(self, name)

        class PoptorchParameter(nn.Parameter):
            def __getattribute__(self, name: str) -> Any:
                sync()
                return object.__getattribute__(self, name)

            @classmethod
            def __torch_function__(
                cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                sync()
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **(kwargs or {}))

        class PoptorchBuffer(torch.Tensor):
            def __getattribute__(self, name: str) -> Any:
                sync()
                return super().__getattribute__(name)

            @classmethod
            def __torch_function__(
                cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                sync()
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **(kwargs or {}))

        for buffer in model.buffers():
            if type(buffer) is not torch.Tensor:
                raise Error("All buffers must be an instance of torch.Tensor")
        for parameter in model.parameters():
            parameter.__class__ = PoptorchParameter
        for buffer in model.buffers():
            buffer.__class__ = PoptorchBuffer
        model.__class__ = PoptorchModel

    def _unwrap(self) -> None:
        for tensor in device.raw(self._user_model).values():
            tensor.__class__ = nn.Parameter if isinstance(tensor, nn.Parameter) else torch.Tensor
        self._user_model.__class__ = type(self._user_model).__mro__[1]

    @property
    def options(self) -> Options:
        return self._options

    # --- the device -------------------------------------------------------------------------------------

    def isCompiled(self):
        return self._program is not None

    def isAttachedToDevice(self):
        return self._attached

    def attachToDevice(self):
        self._need_executable()
        if self._attached:
            raise Error("Device is already attached")
        self._acquire()
        self.copyWeightsToDevice()
        self._write_state()

    def detachFromDevice(self):
        self._need_executable()
        if not self._attached:
            raise Error("Device is not attached")
        if self._training:
            self.copyWeightsToHostIfNeeded()
            self._read_state()
        hardware.release(id(self))
        self._attached = False

    def destroy(self):
        if not self.isCompiled():
            return
        if self._training:
            self.copyWeightsToHostIfNeeded()
            self._read_state()
            self._unwrap()
        hardware.release(id(self))
        self._attached, self._program = False, None

    def _acquire(self) -> None:
        number = self._options.replication_factor
        if number & (number - 1):
            if not self._options.auto_round_num_ipus:
                raise Error(f"{number} IPUs are asked for, which is no power of 2")
            number = 1 << number.bit_length()
        hardware.acquire(id(self), number, Error)
        self._attached = True

    def _need_executable(self) -> None:
        if not self.isCompiled():
            raise Error(NOT_COMPILED)

    # --- weights and state ------------------------------------------------------------------------------

    def copyWeightsToHostIfNeeded(self):
        if not self._dirty:
            return False
        self._dirty = False
        self.copyWeightsToHost()
        return True

    def copyWeightsToHost(self):
        self._need_executable()
        self._program.download(device.raw(self._user_model))

    def copyWeightsToDevice(self):
        self._need_executable()
        self._dirty = False
        self._program.upload(device.raw(self._user_model))

    def setOptimizer(self, optimizer):
        kind = type(optimizer).__name__
        known = type(optimizer) in device.KINDS.values() or isinstance(optimizer, optim.Optimizer)
        if not known:
            raise Error(f"Unsupported optimizer {kind}")
        if any(group.get("amsgrad") for group in optimizer.param_groups):
            raise Error("Only non-amsgrad Adam/AdamW optimizers are supported.")
        self._optimizer = optimizer
        if isinstance(optimizer, optim.Optimizer):
            optimizer.state_dict = MethodType(PoplarExecutor._optimizer_state, self)
        self._snapshot = ([dict(group) for group in optimizer.param_groups], kind)

    def _optimizer_state(self) -> dict[str, Any]:
        self._read_state()
        return self._optimizer.get_state_dict()

    def _read_state(self) -> None:
        if self._state_is_newer and isinstance(self._optimizer, optim.Optimizer):
            self._optimizer.set_state_dict(
                {"ipu_state": self._program.read_state(), "ipu_param": {}}
            )
        self._state_is_newer = False

    def _write_state(self) -> None:
        if isinstance(self._optimizer, optim.Optimizer) and self._optimizer.has_state():
            self._program.write_state(self._optimizer._state_dict["ipu_state"])

    @property
    def rng_state(self):
        self._need_executable()
        return self._rng

    @rng_state.setter
    def rng_state(self, state):
        self._need_executable()
        self._rng = state

    # --- calls ------------------------------------------------------------------------------------------

    @property
    def _together(self) -> int:
        options = self._options
        each = options.replication_factor * options.Training.gradient_accumulation
        return options.device_iterations * each

    def compile(self, *args, **kwargs):
        if not self.isCompiled():
            self._compile(args)

    def __call__(self, *args, **kwargs):
        if kwargs or not all(isinstance(each, torch.Tensor) for each in args):
            raise TypeError("the simulator takes tensors, by position")
        if not self.isCompiled():
            self._compile(args)
        if not self._attached:
            self.attachToDevice()
        given = [(each.shape, each.dtype) for each in args]
        if given != self._locked:
            raise Error(f"compiled for the inputs {self._locked}, and got {given}")
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._rng)
            results = self._run(args)
            self._rng = torch.get_rng_state()
        return results

    def _compile(self, args: tuple[torch.Tensor, ...]) -> None:
        together = self._together
        for each in args:
            rows = each.shape[0] if each.dim() else 1
            if rows % together:
                raise AssertionError(
                    f"Invalid batch dimension: In the input {tuple(each.shape)}, the batch dimension ({rows}) must be "
                    f"a multiple of {together}"
                )
        first = tuple(self._split(args)[0])
        program = device.Program(self._model, first, Error, self._training)
        self._acquire()
        self._program = program
        self._locked = [(each.shape, each.dtype) for each in args]
        seed = self._options.random_seed
        generator = torch.Generator()
        generator.manual_seed(int.from_bytes(os.urandom(7), "little") if seed is None else seed)
        self._rng = generator.get_state()
        self.copyWeightsToDevice()
        if self._training:
            program.take(*self._snapshot)
            program.max_norm = getattr(self._optimizer, "max_grad_norm", float("inf"))
            self._write_state()

    def _split(self, args: tuple[torch.Tensor, ...]) -> list[list[torch.Tensor]]:
        parts = [each.chunk(self._together) for each in args]
        return [[_single(part[at]) for part in parts] for at in range(self._together)]

    def _run(self, args: tuple[torch.Tensor, ...]) -> Any:
        micro = self._split(args)
        if self._training:
            self._program.take(*self._snapshot)
            each = len(micro) // self._options.device_iterations
            results = []
            for first in range(0, len(micro), each):
                results += self._program.update(micro[first : first + each])
            self._dirty = self._state_is_newer = True
        else:
            results = [self._program.evaluate(inputs) for inputs in micro]
        outputs = tuple(self._anchored(list(values)) for values in zip(*results, strict=True))
        return outputs if len(outputs) > 1 else outputs[0]

    def _anchored(self, values: list[torch.Tensor]) -> torch.Tensor:
        options = self._options
        mode = OutputMode(options.output_mode)
        rows = [_narrow(each.reshape(1) if not each.dim() else each) for each in values]
        if mode is OutputMode.Sum:
            rows = [torch.stack(rows).sum(0)]
        elif mode is OutputMode.EveryN:
            rows = rows[options.output_return_period - 1 :: options.output_return_period]
        elif mode is OutputMode.Final:
            accumulated = options.Training.gradient_accumulation
            last = rows[-options.replication_factor * accumulated :]
            rows = last[accumulated - 1 :: accumulated]
        found = torch.cat(rows).detach()

        def refuse() -> None:
            raise Error("backward() cannot be called explicitly on outputs of a PopTorch model.")

        found.backward = refuse
        return found


def _single(tensor: torch.Tensor) -> torch.Tensor:
    """An input as the device has it; 64-bit integers stay, as the processor's losses take no others."""
    return tensor.float() if tensor.dtype is torch.float64 else tensor


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    """An output, without 64-bit numbers, of which the device has none."""
    narrower = {torch.int64: torch.int32, torch.float64: torch.float32}
    return tensor.to(narrower.get(tensor.dtype, tensor.dtype))
