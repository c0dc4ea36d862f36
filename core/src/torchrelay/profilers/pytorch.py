"""PyTorchProfiler: which operations run, on the host and on the device."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerAction, ProfilerActivity, record_function

from torchrelay.errors import ConfigurationError, UnavailableError
from torchrelay.plugin.records import did_you_mean
from torchrelay.profilers.profiler import Profiler, keeping_results
from torchrelay.profilers.ranges import named_ranges

STEPS = {"validate": ".validation_step", "test": ".test_step", "predict": ".predict_step"}
SORT_KEYS = (
    *("cpu_time", "cuda_time", "cpu_time_total", "cuda_time_total", "cpu_memory_usage"),
    *("cuda_memory_usage", "self_cpu_memory_usage", "self_cuda_memory_usage", "count"),
    *("self_cpu_time_total", "self_cuda_time_total"),
)
RESERVED = {"self", "sort_by", "row_limit"}


class PyTorchProfiler(Profiler):
    """Measures operations by `torch.profiler`, whose steps are the run's batches: in fit those of training.

    Unless told otherwise by a schedule it records the third to the fifth batch, and writes them as a Chrome trace,
    `STAGE-FILENAME-RANK.pt.trace.json`. The report is of what was recorded last.

    Args:
        dirpath: folder of report and traces; the run's own when None.
        filename: name of the report, which is printed when both are None.
        group_by_input_shapes: keep operations on inputs of different shapes apart.
        emit_nvtx: record nothing, and mark each operation for NVIDIA's profilers; needs CUDA.
        export_to_chrome: write traces; an `on_trace_ready` does what it likes instead.
        row_limit: lines of the report; -1 for all.
        sort_by_key: column to sort it by; the whole time on the device, or without CUDA on the host, when None.
        record_module_names: record each submodule's forward as a range of its name.
        table_kwargs: further arguments of `EventList.table`.
        profiler_kwargs: further arguments of `torch.profiler.profile`; `schedule=None` records every batch.

    Raises:
        ConfigurationError: an argument has no such name or value.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        group_by_input_shapes: bool = False,
        emit_nvtx: bool = False,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        record_module_names: bool = True,
        table_kwargs: Mapping[str, Any] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename)
        if not isinstance(row_limit, int) or isinstance(row_limit, bool) or row_limit < -1:
            raise ConfigurationError(f"row_limit={row_limit!r} must be a whole number from -1")
        if sort_by_key is not None and sort_by_key not in SORT_KEYS:
            raise ConfigurationError(
                f"sort_by_key={sort_by_key!r}{did_you_mean(str(sort_by_key), SORT_KEYS)}; take one of "
                f"{', '.join(SORT_KEYS)}"
            )
        _check_table_arguments(table_kwargs or {})
        _check_arguments(profiler_kwargs, group_by_input_shapes)
        self._emit_nvtx = emit_nvtx
        self._export_to_chrome = export_to_chrome
        self._record_module_names = record_module_names
        self._group_by_input_shapes = group_by_input_shapes
        self._table = {"sort_by": sort_by_key, "row_limit": row_limit, **(table_kwargs or {})}
        self._on_trace_ready = profiler_kwargs.pop("on_trace_ready", None)
        self._arguments = {"record_shapes": group_by_input_shapes, **profiler_kwargs}
        self._forget()

    def _forget(self) -> None:
        self._module: torch.nn.Module | None = None
        self._running = ExitStack()
        self._torch_profile: torch.profiler.profile | None = None
        self._begun = False
        self._averages: EventList | None = None
        self._ranges: dict[str, record_function] = {}
        self._names_modules = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the records behind: a process that is about to be launched makes its own."""
        mine = ("_module", "_running", "_torch_profile", "_begun", "_averages", "_ranges")
        kept = {name: value for name, value in self.__dict__.items() if name not in mine}
        return {**kept, "_names_modules": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        self.__dict__.update(state)

    # --- the run ----------------------------------------------------------------------------------------

    @property
    def writes_files(self) -> bool:
        """Whether a run ends with files."""
        return self._writes_traces or super().writes_files

    @property
    def _writes_traces(self) -> bool:
        return self._export_to_chrome and self._on_trace_ready is None and not self._emit_nvtx

    def connect(self, module: torch.nn.Module, global_rank: int) -> None:
        """Hear whose submodules run."""
        super().connect(module, global_rank)
        self._module = module

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin a run with empty records.

        Raises:
            UnavailableError: `emit_nvtx` without CUDA.
            ConfigurationError: the folder of the traces cannot be written.
        """
        super().setup(stage, local_rank, log_dir)
        if self._emit_nvtx and not torch.cuda.is_available():
            raise UnavailableError(
                "PyTorchProfiler(emit_nvtx=True) marks operations for NVIDIA's profilers, and torch sees no CUDA "
                "device here; leave emit_nvtx out"
            )
        self._averages = None
        self._begin()

    def teardown(self, stage: str | None) -> None:
        """End what is still under way."""
        self._end()
        self._module = None
        super().teardown(stage)

    def _begin(self) -> None:
        self._begun = True
        if self._emit_nvtx:
            self._running.enter_context(torch.cuda.profiler.profile())
            shapes = self._arguments["record_shapes"]
            marks = torch.autograd.profiler.emit_nvtx(record_shapes=shapes)  # type: ignore[no-untyped-call]
            self._running.enter_context(marks)
            return
        # without a Trainer nobody says where a batch ends, so there are no steps to schedule
        usual = _usual_schedule() if self.stage else None
        arguments = {"schedule": usual, **self._arguments, "on_trace_ready": self._keep}
        self._torch_profile = self._running.enter_context(torch.profiler.profile(**arguments))

    def _end(self) -> None:
        for name in reversed(list(self._ranges)):
            self._ranges.pop(name).__exit__(None, None, None)
        self._running.close()
        self._torch_profile, self._begun, self._names_modules = None, False, False

    # --- its actions ------------------------------------------------------------------------------------

    def start(self, action_name: str) -> None:
        """Begin a range of the action's name.

        Raises:
            ConfigurationError: the action is under way already.
        """
        if not self._begun:
            self._begin()
        if action_name in self._ranges:
            raise ConfigurationError(
                f"profiler.start({action_name!r}): this action is under way already; stop it first, or give the "
                "inner one another name"
            )
        if not self._names_modules and self._module is not None and self._is_batch(action_name):
            self._names_modules = True
            if self._record_module_names:
                self._running.enter_context(named_ranges(self._module))
        self._ranges[action_name] = record_function(action_name)
        self._ranges[action_name].__enter__()  # type: ignore[no-untyped-call]

    def stop(self, action_name: str) -> None:
        """End the range; after a batch, go on to the schedule's next step.

        Raises:
            ConfigurationError: the action was not started.
        """
        under_way = self._ranges.pop(action_name, None)
        if under_way is None:
            raise ConfigurationError(
                f"profiler.stop({action_name!r}): this action was not started; call start first, or use "
                f"`with profiler.profile({action_name!r}):`"
            )
        under_way.__exit__(None, None, None)
        if self._torch_profile is not None and self._is_batch(action_name):
            self._step(self._torch_profile)

    def _step(self, profile: torch.profiler.profile) -> None:
        try:
            profile.step()
        except BaseException:
            profile.on_trace_ready = (
                None  # torch crashes where a trace that did not begin is looked at
            )
            raise

    def _is_batch(self, action_name: str) -> bool:
        if self.stage == "fit":
            return action_name == "run_training_batch"
        return self.stage in STEPS and action_name.endswith(STEPS[self.stage])

    # --- its results ------------------------------------------------------------------------------------

    def _keep(self, profile: torch.profiler.profile) -> None:
        """Take what was recorded before torch forgets it."""
        self._averages = profile.key_averages(self._group_by_input_shapes)
        if self._on_trace_ready is not None:
            self._on_trace_ready(profile)
        elif self._export_to_chrome:
            path = self._free_path()
            with keeping_results(path):
                profile.export_chrome_trace(path)

    def _free_path(self) -> str:
        for number in itertools.count():
            path = self.path(f"{f'-{number}' if number else ''}.pt.trace.json")
            if not os.path.exists(path):
                break
        return path

    def summary(self) -> str:
        """End the recording; a table of what was recorded last."""
        self._end()
        if self._emit_nvtx:
            return ""
        if not self._averages:
            return (
                f"{self.title()}\nnothing was recorded: the schedule had recorded no batch when the run ended; run "
                "more batches, or take PyTorchProfiler(schedule=None), which records all of them"
            )
        on_cuda = any(event.device_time_total for event in self._averages)
        usual = "cuda_time_total" if on_cuda else "cpu_time_total"
        table = {**self._table, "sort_by": self._table["sort_by"] or usual}
        report = self._averages.table(**table)  # type: ignore[no-untyped-call]
        return f"{self.title()}\n{report}"


def _usual_schedule() -> Callable[[int], ProfilerAction]:
    return torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)


def _check_table_arguments(given: Mapping[str, Any]) -> None:
    known = set(inspect.signature(EventList.table).parameters) - RESERVED
    _refuse_unknown(given, known, "table_kwargs has")


def _check_arguments(given: Mapping[str, Any], grouped: bool) -> None:
    known = set(inspect.signature(torch.profiler.profile).parameters)
    _refuse_unknown(given, known, "PyTorchProfiler got")
    if grouped and given.get("record_shapes", True) is not True:
        raise ConfigurationError(
            "group_by_input_shapes=True groups by what record_shapes=False leaves out; leave one of them out"
        )
    schedule = given.get("schedule")
    if schedule is not None and not callable(schedule):
        raise ConfigurationError(
            f"schedule={schedule!r} must be a function of the step, such as "
            "torch.profiler.schedule(wait=1, warmup=1, active=3), or None"
        )
    if schedule is not None and not isinstance(action := schedule(0), ProfilerAction):
        raise ConfigurationError(
            f"schedule(0) returned {action!r}; a schedule returns a torch.profiler.ProfilerAction"
        )
    ready = given.get("on_trace_ready")
    if ready is not None and not callable(ready):
        raise ConfigurationError(
            f"on_trace_ready={ready!r} must be a function of the profile, such as "
            "torch.profiler.tensorboard_trace_handler(folder)"
        )
    _check_activities(given.get("activities"))


def _check_activities(given: Any) -> None:
    if given is None:
        return
    listed = isinstance(given, (list, tuple, set, frozenset)) and given
    if not listed or not all(isinstance(each, (ProfilerActivity, dict)) for each in given):
        raise ConfigurationError(
            f"activities={given!r} must be a list of torch.profiler.ProfilerActivity, or None for all that there are"
        )


def _refuse_unknown(given: Mapping[str, Any], known: set[str], who: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"{who} the unknown argument {name!r}{did_you_mean(name, known)}; it takes "
                f"{', '.join(sorted(known))}"
            )
