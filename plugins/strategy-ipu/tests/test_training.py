"""Training, evaluation and prediction on the simulator arrive where one process does, and what cannot be is refused."""

from __future__ import annotations

import ipu_rules as rules
import pytest

from torchrelay.callbacks import GradientAccumulationScheduler
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay_ipu import IPUStrategy

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("check", rules.CHECKS, ids=lambda check: check.__name__)
def test_rule(check):
    check()


def test_half_precision():
    mine = rules.fitted(rules.trainer(precision="16-true"), rules.Trained())
    theirs = rules.fitted(rules.alone(precision="16-true"), rules.Trained())
    assert {str(each.dtype) for each in mine.values()} == {"torch.float16"}
    assert rules.apart(mine, theirs) <= 8e-3


def test_batches_that_make_no_whole_calls_are_refused():
    with rules.refused(ConfigurationError, "7 training batches", "limit_train_batches=6"):
        rules.trainer(IPUStrategy(device_iterations=3)).fit(rules.Regression(), rules.data())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device_iterations": 0}, "device_iterations=0"),
        ({"autoreport_dir": "here"}, "autoreport=True"),
    ],
)
def test_options_that_contradict_are_refused(options, words):
    with rules.refused(ConfigurationError, words):
        IPUStrategy(**options)


def test_windows_that_change_are_refused():
    schedule = GradientAccumulationScheduler({1: 2})
    with rules.refused(
        UnsupportedError, "accumulate_grad_batches", "GradientAccumulationScheduler"
    ):
        made = rules.trainer(max_epochs=2, callbacks=schedule)
        made.fit(rules.Regression(), rules.data())


def test_options_arrive(tmp_path, monkeypatch):
    import poptorch

    seen = []
    original = poptorch.trainingModel

    def keep(model, options=None, optimizer=None):
        seen.append(options)
        return original(model, options, optimizer)

    monkeypatch.setattr(poptorch, "trainingModel", keep)
    strategy = IPUStrategy(
        device_iterations=2,
        executable_cache=str(tmp_path / "cache"),
        autoreport=True,
        autoreport_dir=str(tmp_path / "report"),
    )
    rules.trainer(strategy, accumulate_grad_batches=3).fit(rules.Regression(), rules.data(24))
    (options,) = seen
    assert (options.device_iterations, options.replication_factor) == (2, 2)
    assert options.Training.gradient_accumulation == 3
    assert options.cache_path == str(tmp_path / "cache")
    assert options.profile_dir == str(tmp_path / "report")
    assert options.output_mode == poptorch.OutputMode.All.value


@pytest.mark.parametrize("name", ["training_opts", "inference_opts"])
def test_an_output_mode_that_leaves_something_out_is_refused(name):
    import poptorch

    for mode in poptorch.OutputMode:
        options = poptorch.Options().replicationFactor(2).outputMode(mode)
        if mode.name in ("Default", "All"):
            rules.trainer(IPUStrategy(**{name: options})).fit(rules.Regression(), rules.data())
            continue
        with rules.refused(UnsupportedError, name, f"outputMode({mode.name})", "leave"):
            rules.trainer(IPUStrategy(**{name: options}))


@pytest.mark.parametrize("inference", [None, 4])
def test_evaluation_has_the_replicas_of_training_unless_it_has_its_own(monkeypatch, inference):
    import poptorch

    monkeypatch.setenv("IPU_SIMULATOR_IPUS", "8")
    seen = []
    original = poptorch.inferenceModel

    def keep(model, options=None):
        seen.append(options.replication_factor)
        return original(model, options)

    monkeypatch.setattr(poptorch, "inferenceModel", keep)
    own = None if inference is None else poptorch.Options().replicationFactor(inference)
    strategy = IPUStrategy(
        training_opts=poptorch.Options().replicationFactor(2), inference_opts=own
    )
    rules.trainer(strategy, devices=8).validate(rules.Regression(), rules.data())
    assert seen == [inference or 2]
