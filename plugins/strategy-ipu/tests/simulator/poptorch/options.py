"""Simulated: options, whose types are checked, and which a model freezes."""

from __future__ import annotations

import copy
from typing import Any

import torch

from poptorch.enums import OutputMode


class OptionsDict:
    """Named values; a value has the type of the one before."""

    def __init__(self, **values: Any) -> None:
        self.__dict__["_values"] = values
        self.__dict__["_frozen"] = False

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name not in values:
            raise AttributeError(f"no option {name!r}")
        return values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} is set by its method")

    def exists(self, option):
        return self._values.get(option) is not None

    def _set(self, **values: Any) -> None:
        if self._frozen:
            raise AttributeError("Can't modify frozen Options")
        for name, value in values.items():
            known = self._values.get(name)
            if known is not None and type(value) is not type(known):
                raise ValueError(
                    f"option {name} takes {type(known).__name__}, not {type(value).__name__}"
                )
            self._values[name] = value

    def _freeze(self) -> None:
        self.__dict__["_frozen"] = True


class _JitOptions(OptionsDict):
    def __init__(self) -> None:
        super().__init__(trace_model=False)

    def traceModel(self, trace_model):
        if trace_model:
            raise ValueError("traceModel(True): torch.jit.trace is no longer supported")
        return self


class _TrainingOptions(OptionsDict):
    def __init__(self) -> None:
        super().__init__(gradient_accumulation=1)

    def gradientAccumulation(self, gradient_accumulation):
        self._set(gradient_accumulation=gradient_accumulation)
        return self


class Options(OptionsDict):
    def __init__(self) -> None:
        super().__init__(
            replication_factor=1,
            device_iterations=1,
            auto_round_num_ipus=False,
            output_mode=OutputMode.Default.value,
            output_return_period=1,
            random_seed=None,
            use_model=None,
            cache_path=None,
            profile_dir=None,
        )
        self.__dict__["_training"] = _TrainingOptions()
        self.__dict__["_jit"] = _JitOptions()

    @property
    def Training(self) -> _TrainingOptions:
        return self.__dict__["_training"]

    @property
    def Jit(self) -> _JitOptions:
        return self.__dict__["_jit"]

    def _freeze(self) -> None:
        for each in (super(), self.Training, self.Jit):
            each._freeze()

    def autoRoundNumIPUs(self, auto_round_num_ipus=True):
        self._set(auto_round_num_ipus=auto_round_num_ipus)
        return self

    def deviceIterations(self, device_iterations):
        self._set(device_iterations=device_iterations)
        return self

    def replicationFactor(self, replication_factor):
        self._set(replication_factor=replication_factor)
        return self

    def outputMode(self, output_mode, output_return_period=None):
        if not isinstance(output_mode, OutputMode):
            raise ValueError(f"outputMode({output_mode!r})")
        self._set(output_mode=output_mode.value, output_return_period=output_return_period or 1)
        return self

    def randomSeed(self, random_seed):
        assert isinstance(random_seed, int)
        torch.manual_seed(random_seed)  # as the vendor's does
        self._set(random_seed=random_seed)
        return self

    def useIpuModel(self, use_model):
        self._set(use_model=use_model)
        return self

    def enableExecutableCaching(self, path):
        self._set(cache_path=path)
        return self

    def enableProfiling(self, profile_dir=None):
        self._set(profile_dir=profile_dir or ".")
        return self

    def clone(self):
        other = Options()
        other._values.update(copy.deepcopy(self._values))
        other.Training._values.update(self.Training._values)
        return other
