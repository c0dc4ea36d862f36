"""A call with an argument that there is not, or no longer, is answered in one line, as a wrong value is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from torchrelay.errors import ConfigurationError, show_user_errors_as_one_line
from torchrelay.plugin.records import closest

P = ParamSpec("P")
T = TypeVar("T")

_GPUS = 'write accelerator="gpu", devices={value}, or accelerator="cpu" for none'
_TUNER = "leave it out, and set the {what} yourself; torchrelay has no tuner"
_DATALOADERS = "write dataloaders=..."
_LIMIT = "write {name}={{value}}"

RETIRED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "Trainer": {
            "amp_backend": 'leave it out, mixed precision is torch\'s own: precision="16-mixed"',
            "amp_level": 'leave it out, mixed precision is torch\'s own: precision="16-mixed"',
            "auto_lr_find": _TUNER.format(what="learning rate"),
            "auto_scale_batch_size": _TUNER.format(what="batch size"),
            "auto_select_gpus": 'leave it out, and name the devices: accelerator="gpu", devices=[...]',
            "automatic_optimization": "set self.automatic_optimization={value} in the module",
            "checkpoint_callback": (
                "write enable_checkpointing=True or False, and put a ModelCheckpoint among callbacks=[...]"
            ),
            "ckpt_path": "give it to the method: trainer.fit(..., ckpt_path={value})",
            "distributed_backend": "write strategy={value}",
            "early_stop_callback": "write callbacks=[EarlyStopping(monitor=...)]",
            "enable_pl_optimizer": "leave it out; optimizers are torch's own",
            "epochs": _LIMIT.format(name="max_epochs"),
            "flush_logs_every_n_steps": "write logger=CSVLogger(..., flush_logs_every_n_steps={value})",
            "gpu": _GPUS,
            "gpus": _GPUS,
            "hpus": 'write accelerator="hpu", devices={value}',
            "ipus": 'write accelerator="ipu", devices={value}',
            "log_gpu_memory": "write callbacks=[DeviceStatsMonitor()]",
            "log_save_interval": "write logger=CSVLogger(..., flush_logs_every_n_steps={value})",
            "max_nb_epochs": _LIMIT.format(name="max_epochs"),
            "min_nb_epochs": _LIMIT.format(name="min_epochs"),
            "model_registry": "leave it out; torchrelay has no registry of models",
            "move_metrics_to_cpu": "leave it out; what predict returns and what is logged waits for no device",
            "multiple_trainloader_mode": "write fit(model, CombinedLoader(loaders, mode={value}))",
            "nb_gpu_nodes": _LIMIT.format(name="num_nodes"),
            "num_gpus": _GPUS,
            "num_processes": 'write accelerator="cpu", devices={value}',
            "overfit_pct": _LIMIT.format(name="overfit_batches"),
            "prepare_data_per_node": "set prepare_data_per_node={value} on the module or the data module",
            "process_position": "write callbacks=[TQDMProgressBar(process_position={value})]",
            "progress_bar_refresh_rate": (
                "write callbacks=[TQDMProgressBar(refresh_rate={value})], or enable_progress_bar=False"
            ),
            "reload_dataloaders_every_epoch": "write reload_dataloaders_every_n_epochs=1, or leave it out for never",
            "replace_sampler_ddp": "write use_distributed_sampler={value}",
            "resume_from_checkpoint": "give it to fit: trainer.fit(..., ckpt_path={value})",
            "row_log_interval": _LIMIT.format(name="log_every_n_steps"),
            "show_progress_bar": "write enable_progress_bar={value}",
            "stochastic_weight_avg": "write callbacks=[StochasticWeightAveraging(swa_lrs=...)]",
            "terminate_on_nan": "write detect_anomaly={value}",
            "test_percent_check": _LIMIT.format(name="limit_test_batches"),
            "tpu_cores": 'write accelerator="tpu", devices={value}',
            "track_grad_norm": (
                "log it in the module's on_before_optimizer_step: self.log_dict(grad_norm(self, norm_type={value}))"
            ),
            "train_percent_check": _LIMIT.format(name="limit_train_batches"),
            "truncated_bptt_steps": (
                "set self.automatic_optimization=False, and go through the parts of the sequence in training_step"
            ),
            "use_amp": 'write precision="16-mixed"',
            "val_percent_check": _LIMIT.format(name="limit_val_batches"),
            "weights_save_path": "write callbacks=[ModelCheckpoint(dirpath={value})]",
            "weights_summary": (
                "write callbacks=[ModelSummary(max_depth=1)], -1 for all, or enable_model_summary=False for none"
            ),
        },
        "Trainer.fit": {
            "resume_from_checkpoint": "write ckpt_path={value}",
            "train_dataloader": "write train_dataloaders=...",
        },
        "Trainer.validate": {
            "val_dataloader": _DATALOADERS,
            "val_dataloaders": _DATALOADERS,
        },
        "Trainer.test": {
            "test_dataloader": _DATALOADERS,
            "test_dataloaders": _DATALOADERS,
        },
        "Trainer.predict": {
            "predict_dataloader": _DATALOADERS,
            "predict_dataloaders": _DATALOADERS,
        },
        "Trainer.save_checkpoint": {
            "storage_options": "write Trainer(plugins=...) with a CheckpointIO of your own",
        },
        "ModelCheckpoint": {
            "every_n_val_epochs": "write every_n_epochs={value}",
            "filepath": 'write dirpath="FOLDER", filename="NAME"',
            "period": "write every_n_epochs={value}",
            "prefix": 'write it into the name: filename="PREFIX-{{epoch}}"',
            "save_function": "leave it out; the strategy saves",
        },
        "ModelSummary": {"mode": 'write max_depth=1 for "top", max_depth=-1 for "full"'},
        "ProgressBar": {
            "process_position": "write TQDMProgressBar(process_position={value})",
            "refresh_rate_per_second": "write refresh_rate={value}",
        },
        "Profiler": {
            "output_filename": 'write dirpath="FOLDER", filename="NAME"',
            "output_streams": "leave it out; the report is printed, or written with dirpath= and filename=",
        },
    }
)
"""Arguments that Lightning has, or once had, and torchrelay has not: what to do instead, by who was called."""

LISTED = 12
"""Arguments that an answer lists, at most."""


def answering(function: Callable[P, T]) -> Callable[P, T]:
    """Let a call whose arguments do not fit raise a `ConfigurationError`, one line, rather than a `TypeError`.

    Costs nothing else: a call that fits is made as it is. Of a constructor, the arguments of its base classes' count.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            # It was raised by the call itself if no frame of the function's was entered.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            show_user_errors_as_one_line()
            refusal = _Call(function, args, kwargs).refusal()
        raise refusal

    return wrapped


@dataclass(frozen=True)
class _Call:
    """A call that does not fit its function."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def bases(self) -> tuple[type, ...]:
        """The classes whose constructors take arguments on; none of a function that makes nothing."""
        return type(self.args[0]).__mro__[:-1] if self.function.__name__ == "__init__" else ()

    @property
    def callee(self) -> str:
        return self.bases[0].__name__ if self.bases else self.function.__qualname__

    @property
    def known(self) -> list[str]:
        """The arguments that may be given by name."""
        functions = [vars(base)["__init__"] for base in self.bases if "__init__" in vars(base)]
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names = dict.fromkeys(
            parameter.name
            for function in functions or [self.function]
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind in kinds and parameter.name != "self"
        )
        return list(names)

    @property
    def retired(self) -> Mapping[str, str]:
        owners = [base.__name__ for base in self.bases] or [self.function.__qualname__]
        return {name: said for owner in owners for name, said in RETIRED.get(owner, {}).items()}

    def refusal(self) -> ConfigurationError:
        """The error to raise: what is said of each argument that is unknown, or else how the others do not fit."""
        unknown = [name for name in self.kwargs if name not in self.known]
        given = ", ".join(f"{name}={_shown(self.kwargs[name])}" for name in unknown)
        said = "; ".join(map(self._unknown, unknown)) or self._misfit()
        return ConfigurationError(f"{self.callee}({given}): {said}")

    def _unknown(self, name: str) -> str:
        trouble, retired = f"no argument is called {name!r}", self.retired
        if name in retired:
            return f"{trouble}; {self._advice(name, name)}"
        close = closest(name, [*self.known, *retired])
        if not close:
            return f"{trouble}; {self._listing()}"
        if close[0] in retired:
            return f"{trouble}; if {close[0]!r} is meant, {self._advice(close[0], name)}"
        names = " or ".join(repr(each) for each in close if each not in retired)
        return f"{trouble}, did you mean {names}?"

    def _advice(self, name: str, given: str) -> str:
        value = self.kwargs[given]
        return "leave it out" if value is None else self.retired[name].format(value=_shown(value))

    def _misfit(self) -> str:
        try:
            inspect.signature(self.function).bind(*self.args, **self.kwargs)
        except TypeError as error:
            named = ", give each its name" if "positional" in str(error) else ""
            return f"{error}{named}; {self._listing()}"
        raise AssertionError(f"{self.callee} takes these arguments")

    def _listing(self) -> str:
        names = [f"{name}=" for name in self.known]
        more = len(names) - LISTED
        rest = f" and {more} more, which help({self.callee}) describes" if more > 0 else ""
        return f"its arguments are {', '.join(names[:LISTED])}{rest}"


def _shown(value: object) -> str:
    """A value as it is written, if that is short."""
    text = repr(value) if isinstance(value, (bool, int, float, str, list, type(None))) else "..."
    return text if len(text) <= 40 else "..."
