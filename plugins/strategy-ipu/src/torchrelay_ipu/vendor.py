"""The only module that imports PopTorch, when a function here is called; its errors become torchrelay's.

`sdk`, `options`, `model` and `optimizer` are names of PopTorch's objects alone: a test reads off every call made on
them, and holds it against the recorded signatures.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from torchrelay.errors import TorchrelayError, UnavailableError
from torchrelay_ipu.plugin import INSTALL, SDK
from torchrelay_ipu.probe import emulated


class IPUError(TorchrelayError):
    """PopTorch refused or failed; the message is its own."""


# --- what is installed ----------------------------------------------------------------------------------


def poptorch() -> Any:
    """The module.

    Raises:
        UnavailableError: it is not there, or is for another torch, which it asserts when it is imported.
    """
    try:
        return import_module("poptorch")
    except (ImportError, AssertionError) as error:
        raise UnavailableError(
            f"PopTorch cannot be imported ({_line(error)}): {INSTALL}"
        ) from error


def examined() -> str | None:
    """Whether PopTorch can be used: None, or what is wrong and where the SDK is had."""
    if importlib.util.find_spec("poptorch") is None:
        return f"PopTorch is not installed: {INSTALL}"
    try:
        sdk = poptorch()
    except UnavailableError as error:
        return str(error)
    found = str(sdk.__version__)
    if found.partition("-")[0].partition("+")[0] != SDK:
        return f"PopTorch {found} is not the release that this package was written for: {INSTALL}"
    return None


def available(number: int) -> bool:
    """Whether so many IPUs are there, free or not; the emulator is none."""
    sdk = poptorch()
    return bool(sdk.ipuHardwareIsAvailable(num_ipus=number))


# --- options --------------------------------------------------------------------------------------------


def new_options() -> Any:
    """Options as PopTorch makes them."""
    sdk = poptorch()
    return sdk.Options()


def copied(options: Any) -> Any:
    """A copy of the user's, which can be changed."""
    return options.clone()


def iterations(options: Any) -> int:
    """Iterations in a call; 1 where nobody gave options."""
    return 1 if options is None else int(options.device_iterations)


def replicas(options: Any) -> int:
    """Copies of the model."""
    return int(options.replication_factor)


def accumulation(options: Any) -> int:
    """Micro-batches of an update; 1 where nobody gave options."""
    return 1 if options is None else int(options.Training.gradient_accumulation)


def rounds_up(options: Any) -> bool:
    """Whether a number of IPUs that is no power of 2 may be rounded up."""
    return options is not None and bool(options.auto_round_num_ipus)


def seeded(options: Any) -> bool:
    """Whether the user has seeded the device."""
    return bool(options.exists("random_seed"))


def set_counts(options: Any, *, iterations: int, replicas: int, accumulation: int) -> None:
    """Say how many micro-batches are in a call."""
    options.deviceIterations(iterations)
    options.replicationFactor(replicas)
    options.Training.gradientAccumulation(accumulation)


def output_mode(options: Any) -> str:
    """Name of the mode that says which outputs a call returns; the options have its value."""
    sdk = poptorch()
    return next(str(mode.name) for mode in sdk.OutputMode if mode.value == options.output_mode)


def return_everything(options: Any) -> None:
    """Let a call return the outputs of every micro-batch."""
    sdk = poptorch()
    options.outputMode(sdk.OutputMode.All)


def seed(options: Any, number: int) -> None:
    """Seed the device; PopTorch seeds torch with it as well, whose state stays what it was here."""
    with torch.random.fork_rng(devices=[]):
        options.randomSeed(number)


def emulate(options: Any) -> None:
    """Take the emulator."""
    options.useIpuModel(True)


def cache_executables(options: Any, path: str) -> None:
    """Keep executables in a folder."""
    options.enableExecutableCaching(path)


def profile(options: Any, path: str) -> None:
    """Write Poplar's reports into a folder."""
    options.enableProfiling(path)


# --- compiled models ------------------------------------------------------------------------------------


def training_model(module: nn.Module, options: Any, optimizer: Any) -> Any:
    """Wrap a module for training; the first call compiles it."""
    sdk = poptorch()
    with told():
        return sdk.trainingModel(module, options=options, optimizer=optimizer)


def inference_model(module: nn.Module, options: Any) -> Any:
    """Wrap a module for inference; the first call compiles it."""
    sdk = poptorch()
    with told():
        return sdk.inferenceModel(module, options=options)


def compile_for(model: Any, tensors: list[torch.Tensor]) -> None:
    """Compile a wrapped model for inputs of these shapes, and take the device."""
    with told():
        model.compile(*tensors)


def call(model: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run a wrapped model; what it returns, a tensor for each output."""
    with told():
        found = model(*tensors)
    return [found] if isinstance(found, torch.Tensor) else list(found)


def compiled(model: Any) -> bool:
    """Whether there is an executable."""
    return bool(model.isCompiled())


def attached(model: Any) -> bool:
    """Whether it has the device."""
    return bool(model.isAttachedToDevice())


def attach(model: Any) -> None:
    """Take the device, with the host's weights and optimizer state."""
    with told():
        model.attachToDevice()


def detach(model: Any) -> None:
    """Give the device back; weights and optimizer state return to the host."""
    with told():
        model.detachFromDevice()


def fetch_weights(model: Any) -> None:
    """Copy newer weights to the host."""
    with told():
        model.copyWeightsToHostIfNeeded()


def send_weights(model: Any) -> None:
    """Copy the host's weights to the device."""
    with told():
        model.copyWeightsToDevice()


def set_optimizer(model: Any, optimizer: Any) -> None:
    """Forward the optimizer's settings, such as learning rates."""
    with told():
        model.setOptimizer(optimizer)


def random_state(model: Any) -> Any:
    """The device's random state."""
    return model.rng_state


def set_random_state(model: Any, state: Any) -> None:
    """Set it; the model is compiled."""
    model.rng_state = state


def release(model: Any, module: nn.Module) -> None:
    """Destroy a wrapped model and unwrap the user's module.

    One never compiled PopTorch leaves wrapped, and one whose device is lost cannot be asked: its attributes would ask
    the device.
    """
    try:
        with told():
            model.destroy()
    finally:
        for tensor in [*module.parameters(), *module.buffers()]:
            kind = type(tensor)
            if kind not in (nn.Parameter, torch.Tensor):
                tensor.__class__ = nn.Parameter if issubclass(kind, nn.Parameter) else torch.Tensor


def mark_loss(loss: torch.Tensor) -> torch.Tensor:
    """Mark what is to be differentiated."""
    sdk = poptorch()
    marked: torch.Tensor = sdk.identity_loss(loss, reduction="none")
    return marked


# --- optimizers -----------------------------------------------------------------------------------------


def is_own(optimizer: Any) -> bool:
    """Whether an optimizer is one of PopTorch's."""
    return type(optimizer).__module__.partition(".")[0] == "poptorch"


def make_optimizer(name: str, groups: list[dict[str, Any]], settings: dict[str, Any]) -> Any:
    """PopTorch's SGD, Adam or AdamW.

    Args:
        name: which.
        groups: of parameters.
        settings: all by name, as PopTorch lets only those change later that its constructor was given.
    """
    sdk = poptorch()
    if name == "SGD":
        return sdk.optim.SGD(groups, **settings)
    return (
        sdk.optim.Adam(groups, **settings)
        if name == "Adam"
        else sdk.optim.AdamW(groups, **settings)
    )


def max_norm(optimizer: Any) -> float:
    """The norm to which an optimizer clips; infinite where it does not."""
    return float(optimizer.max_grad_norm)


def set_max_norm(optimizer: Any, value: float) -> None:
    """Let an optimizer clip; it is not compiled yet."""
    optimizer.max_grad_norm = value


def read_state(optimizer: Any) -> dict[str, torch.Tensor]:
    """The device's state of an optimizer by the device's names; empty before the first update."""
    with told():
        return dict(optimizer.state_dict().get("ipu_state") or {})


def write_state(optimizer: Any, state: dict[str, torch.Tensor]) -> None:
    """Let the device take up a state when it is next attached or compiled."""
    optimizer.set_state_dict({"ipu_state": state, "ipu_param": {}})


# --- errors ---------------------------------------------------------------------------------------------


@contextmanager
def told() -> Iterator[None]:
    """Turn PopTorch's errors into one of torchrelay's.

    Raises:
        IPUError: in PopTorch's words.
    """
    sdk = poptorch()
    try:
        yield
    except sdk.Error as error:
        raise IPUError(f"PopTorch: {error}") from error


def use_emulator() -> bool:
    """Whether the user asks for PopTorch's emulator."""
    return emulated()


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
