from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch.profiler import ProfilerAction, schedule, tensorboard_trace_handler

from torchrelay.errors import ConfigurationError, UnavailableError
from torchrelay.profilers import PyTorchProfiler


def names(path):
    return [event["name"] for event in json.loads(path.read_text())["traceEvents"]]


@pytest.fixture
def fit(boring, make_trainer, tmp_path):
    def run(batches=8, **arguments):
        profiler = PyTorchProfiler(**{"dirpath": tmp_path, "filename": "f", **arguments})
        trainer = make_trainer(profiler=profiler)
        trainer.fit(boring.regression(), boring.loader(4 * batches), boring.loader(8))
        return (tmp_path / "fit-f-0.txt").read_text()

    return run


def test_three_batches_are_recorded(fit, tmp_path):
    report = fit()
    assert report.startswith("FIT Profiler Report, rank 0\n")
    found = names(tmp_path / "fit-f-0.pt.trace.json")
    assert sorted({name for name in found if name.startswith("ProfilerStep")}) == [
        "ProfilerStep#2",
        "ProfilerStep#3",
        "ProfilerStep#4",
    ]
    for name in (
        "run_training_batch",
        "[Strategy]SingleDeviceStrategy.training_step",
        "[Strategy]SingleDeviceStrategy.backward",
        "[module]Linear: net.0",
        "aten::addmm",
    ):
        assert name in found, name
    assert found.count("run_training_batch") == 3
    assert "aten::addmm" in report


def test_validation_within_fit_is_no_step(fit, tmp_path):
    fit(schedule=None)
    found = names(tmp_path / "fit-f-0.pt.trace.json")
    assert found.count("run_training_batch") == 8
    assert "[Strategy]SingleDeviceStrategy.validation_step" in found


@pytest.mark.parametrize(
    ("stage", "step"), [("validate", "validation"), ("test", "test"), ("predict", "predict")]
)
def test_batches_of_other_stages_are_steps(boring, make_trainer, tmp_path, stage, step):
    trainer = make_trainer(profiler=PyTorchProfiler(tmp_path, record_module_names=False))
    getattr(trainer, stage)(boring.regression(), boring.loader(32))
    found = names(tmp_path / f"{stage}-0.pt.trace.json")
    assert found.count(f"[Strategy]SingleDeviceStrategy.{step}_step") == 3
    assert not [name for name in found if name.startswith("[module]")]


@pytest.mark.filterwarnings("ignore:.*clears events at the end of each cycle")
def test_a_schedule_of_the_users(fit, tmp_path):
    asked = []

    def every_other(step):
        asked.append(step)
        return ProfilerAction.RECORD_AND_SAVE if step % 4 == 3 else ProfilerAction.NONE

    fit(schedule=every_other)
    assert asked[-1] == 8
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "fit-f-0-1.pt.trace.json",
        "fit-f-0.pt.trace.json",
    ]
    assert names(tmp_path / "fit-f-0-1.pt.trace.json").count("run_training_batch") == 1


def test_a_schedule_that_fails_ends_the_run_and_no_more(fit):
    def failing(step):
        if step == 4:
            raise KeyError("mine")
        return ProfilerAction.RECORD_AND_SAVE if step == 3 else ProfilerAction.NONE

    with pytest.raises(KeyError, match="mine"):
        fit(schedule=failing)
    assert not torch.autograd._profiler_enabled()


def test_tensorboards_handler(fit, tmp_path):
    fit(on_trace_ready=tensorboard_trace_handler(str(tmp_path / "tb"), "worker"))
    (trace,) = (tmp_path / "tb").iterdir()
    assert trace.name.startswith("worker.")
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(("batches", "recorded"), [(1, False), (3, True)])
def test_a_run_that_is_short(fit, tmp_path, batches, recorded):
    report = fit(batches)
    assert ("aten::addmm" in report) == recorded
    assert ("PyTorchProfiler(schedule=None)" in report) != recorded
    assert bool(list(tmp_path.glob("*.json"))) == recorded


def test_no_trace_where_none_is_wanted(fit, tmp_path):
    fit(export_to_chrome=False)
    assert not list(tmp_path.glob("*.json"))


def test_traces_go_to_the_runs_folder(boring, make_trainer, tmp_path, capsys):
    make_trainer(profiler="pytorch").fit(boring.regression(), boring.loader(32))
    assert (tmp_path / "fit-0.pt.trace.json").exists()
    assert "FIT Profiler Report, rank 0" in capsys.readouterr().err


@pytest.mark.parametrize(("row_limit", "listed"), [(2, 2), (0, 0)])
def test_so_many_rows(fit, row_limit, listed):
    report = fit(row_limit=row_limit, sort_by_key="count")
    rows = report.splitlines()[4:]
    assert rows.index(next(row for row in rows if row.startswith("-"))) == listed


def test_shapes_are_kept_apart(fit):
    report = fit(
        group_by_input_shapes=True, row_limit=-1, table_kwargs={"max_shapes_column_width": 200}
    )
    shapes = {line.partition("[[")[2] for line in report.splitlines() if "aten::addmm" in line}
    assert len(shapes) == 2  # one for each of the layers


def test_the_table_takes_more(fit):
    assert "no such header\n" in fit(table_kwargs={"header": "no such header"})


def test_hooks_are_taken_away(boring, make_trainer, tmp_path):
    copies = []

    def on_train_batch_end(self, *_):
        copies.append(copy.deepcopy(self))

    module = boring.regression(on_train_batch_end=on_train_batch_end)
    make_trainer(profiler=PyTorchProfiler(tmp_path)).fit(module, boring.loader(8))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    copies[-1](torch.zeros(1, 4))  # what was copied with its hooks works by itself
    assert pickle.loads(pickle.dumps(copies[-1].net)) is not None


def test_a_failing_run_ends_the_recording(boring, make_trainer, tmp_path):
    def training_step(self, batch, batch_idx):
        raise KeyError("mine")

    module = boring.regression(training_step=training_step)
    trainer = make_trainer(profiler=PyTorchProfiler(tmp_path, schedule=None))
    with pytest.raises(KeyError, match="mine"):
        trainer.fit(module, boring.loader(8))
    assert not torch.autograd._profiler_enabled()
    assert not any(part._forward_hooks for part in module.modules())
    module = boring.regression()
    trainer.fit(module, boring.loader(8))
    assert not torch.autograd._profiler_enabled()


def test_by_itself_it_records_all(tmp_path):
    profiler = PyTorchProfiler(tmp_path, "mine")
    for _ in range(2):
        with profiler.profile("act"):
            torch.ones(2, 2) @ torch.ones(2, 2)
    profiler.describe()
    report = (tmp_path / "mine.txt").read_text()
    assert "aten::mm" in report
    assert names(tmp_path / "mine.pt.trace.json").count("act") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_nvtx_needs_cuda(boring, make_trainer):
    with pytest.raises(UnavailableError, match="leave emit_nvtx out"):
        make_trainer(profiler=PyTorchProfiler(emit_nvtx=True)).fit(
            boring.regression(), boring.loader(4)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"record_shape": True}, "unknown argument 'record_shape', did you mean 'record_shapes'"),
        ({"row_limit": 1.5}, "row_limit=1.5"),
        ({"row_limit": -2}, "row_limit=-2"),
        ({"sort_by_key": "cpu_time_totl"}, "did you mean 'cpu_time_total'"),
        ({"schedule": 3}, "schedule=3 must be a function"),
        ({"schedule": str}, r"schedule\(0\) returned '0'"),
        ({"on_trace_ready": "tb"}, "on_trace_ready='tb' must be a function"),
        ({"activities": "cpu"}, "activities='cpu' must be a list"),
        ({"activities": []}, "activities="),
        ({"group_by_input_shapes": True, "record_shapes": False}, "leave one of them out"),
        ({"table_kwargs": {"row_limit": 3}}, "table_kwargs has the unknown argument 'row_limit'"),
    ],
    ids=str,
)
def test_misuse(arguments, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        PyTorchProfiler(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda p: p.stop("b"), r"stop\('b'\): this action was not started"),
        (lambda p: p.start("a"), r"start\('a'\): this action is under way"),
    ],
)
def test_misused_actions(misuse, message):
    profiler = PyTorchProfiler(export_to_chrome=False)
    with profiler.profile("a"), pytest.raises(ConfigurationError, match=message):
        misuse(profiler)
    profiler.teardown(None)


def test_it_travels_to_other_processes():
    profiler = PyTorchProfiler(export_to_chrome=False, row_limit=3)
    with profiler.profile("a"):
        travelled = pickle.loads(pickle.dumps(profiler))
    profiler.teardown(None)
    with travelled.profile("a"):
        pass
    assert "a" in travelled.summary()


def test_a_batch_ends_with_its_step(tmp_path):
    every = schedule(wait=0, warmup=1, active=1, repeat=1)
    profiler = PyTorchProfiler(tmp_path, schedule=every)
    profiler.setup("test", 0, None)
    for operation in (torch.sin, torch.cos, torch.tan):
        with profiler.profile("[Strategy]X.test_step"):
            operation(torch.ones(1))
    report = profiler.summary()
    assert "aten::cos" in report
    assert "aten::sin" not in report
    assert "aten::tan" not in report
