"""Settings: what the user wants of PopTorch's options, and the options made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from torchrelay.errors import ConfigurationError
from torchrelay_ipu import vendor

SEEDS = 2**32
"""Seeds are numbers below this."""


@dataclass(frozen=True)
class Settings:
    """What the user gave to the strategy.

    Attributes:
        device_iterations: updates in a call; None for those of the training options.
        training_opts: PopTorch's options, of which a copy is changed.
        inference_opts: the same for evaluation.
        executable_cache: a folder.
        autoreport: whether Poplar writes its reports.
        autoreport_dir: where; the working folder when None.
    """

    device_iterations: int | None = None
    training_opts: Any = None
    inference_opts: Any = None
    executable_cache: str | None = None
    autoreport: bool = False
    autoreport_dir: str | None = None

    def __post_init__(self) -> None:
        iterations, own = self.device_iterations, vendor.iterations(self.training_opts)
        if iterations is not None and (type(iterations) is not int or iterations < 1):
            raise ConfigurationError(f"device_iterations={iterations!r} must be a number from 1")
        if iterations is not None and own not in (1, iterations):
            raise ConfigurationError(
                f"device_iterations={iterations} and deviceIterations({own}) of training_opts contradict each other; "
                "give one of them"
            )
        if self.autoreport_dir is not None and not self.autoreport:
            raise ConfigurationError(
                "autoreport_dir is given without autoreport=True; give both, or neither"
            )

    @property
    def iterations(self) -> int:
        """Updates in a call."""
        return self.device_iterations or vendor.iterations(self.training_opts)

    def replicas(self, devices: int, *, training: bool) -> int:
        """Copies of the model: one for each device, unless the options say otherwise; training's may speak for both."""
        options = self.training_opts
        if not training and self.inference_opts is not None:
            options = self.inference_opts
        return devices if options is None else vendor.replicas(options)

    @property
    def evaluation_iterations(self) -> int:
        """Parts into which a batch of evaluation is divided, besides replicas."""
        return vendor.iterations(self.inference_opts)

    def refusals(self, devices: int, accumulate: int) -> list[str]:
        """Why the options cannot be had."""
        reasons = []
        own = vendor.accumulation(self.training_opts)
        if own not in (1, accumulate):
            reasons.append(
                f"gradientAccumulation({own}) of training_opts and accumulate_grad_batches={accumulate} contradict "
                "each other; give Trainer(accumulate_grad_batches=...) alone"
            )
        if vendor.accumulation(self.inference_opts) != 1:
            reasons.append("inference_opts has gradientAccumulation; leave it at 1")
        rounds = vendor.rounds_up(self.training_opts)
        if devices & (devices - 1) and not rounds:
            reasons.append(
                f"devices={devices} is no power of 2, and IPUs come in powers of 2; take devices="
                f"{1 << devices.bit_length()}, or training_opts with autoRoundNumIPUs(True)"
            )
        for name, options in (
            ("training_opts", self.training_opts),
            ("inference_opts", self.inference_opts),
        ):
            if options is not None:
                reasons += _refused(devices, name, options)
        return reasons

    def options(self, *, iterations: int, replicas: int, accumulation: int, training: bool) -> Any:
        """PopTorch's options for a step."""
        given = self.training_opts if training else self.inference_opts
        options = vendor.new_options() if given is None else vendor.copied(given)
        vendor.set_counts(
            options, iterations=iterations, replicas=replicas, accumulation=accumulation
        )
        vendor.return_everything(options)
        if not vendor.seeded(options):
            vendor.seed(options, torch.initial_seed() % SEEDS)
        if vendor.use_emulator():
            vendor.emulate(options)
        if self.executable_cache is not None:
            vendor.cache_executables(options, self.executable_cache)
        if self.autoreport:
            vendor.profile(options, self.autoreport_dir or ".")
        return options


def _refused(devices: int, name: str, options: Any) -> Iterator[str]:
    replicas, mode = vendor.replicas(options), vendor.output_mode(options)
    if devices % replicas:
        yield f"devices={devices} cannot be divided between the {replicas} replicas of {name}"
    if mode not in ("Default", "All"):
        yield (
            f"{name} has outputMode({mode}), and the outputs of every part are needed for what a step returns and "
            "logs; leave outputMode out"
        )
