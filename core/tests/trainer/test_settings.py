from __future__ import annotations

import os

import pytest
import torch

from torchrelay.errors import ConfigurationError, NonFiniteLossError
from torchrelay.trainer.settings import CUBLAS_VARIABLE, check, check_finite, runtime


@pytest.fixture(autouse=True)
def _defaults(monkeypatch):
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    before = state()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark = before[2]
    torch.autograd.set_detect_anomaly(before[3], before[4])


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        os.environ.get(CUBLAS_VARIABLE),
    )


BEFORE = [
    (False, False, False, False, True, None),
    (True, True, True, True, False, ":16:8"),
]


def arrange(before):
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark = before[2]
    torch.autograd.set_detect_anomaly(before[3], before[4])
    if before[5]:
        os.environ[CUBLAS_VARIABLE] = before[5]
    assert state() == before


ARGUMENTS = [
    ({}, {}),
    ({"deterministic": True}, {0: True, 1: False, 2: False, 5: ":4096:8"}),
    ({"deterministic": "warn"}, {0: True, 1: True, 2: False, 5: ":4096:8"}),
    ({"deterministic": "warn", "benchmark": True}, {0: True, 1: True, 2: True, 5: ":4096:8"}),
    ({"deterministic": False}, {0: False, 1: False}),
    ({"benchmark": True}, {2: True}),
    ({"benchmark": False}, {2: False}),
    ({"detect_anomaly": True}, {3: True, 4: True}),
    ({"detect_anomaly": False}, {}),
]


@pytest.mark.parametrize("before", BEFORE, ids=["usual", "unusual"])
@pytest.mark.parametrize(("arguments", "changes"), ARGUMENTS, ids=str)
@pytest.mark.parametrize("fails", [False, True])
def test_settings_hold_and_are_put_back(monkeypatch, before, arguments, changes, fails):
    monkeypatch.setenv(CUBLAS_VARIABLE, "")
    monkeypatch.delenv(CUBLAS_VARIABLE)
    arrange(before)
    inside = [changes.get(i, value) for i, value in enumerate(before)]
    inside[5] = before[5] or changes.get(5)  # the user's own choice is respected
    try:
        with runtime(**arguments):
            assert state() == tuple(inside)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert state() == before


def test_an_operation_without_a_deterministic_form_is_refused_inside_alone():
    x, index = torch.zeros(3), torch.tensor([0, 0])

    def put():
        return x.clone().put_(index, torch.ones(2), accumulate=False)

    with runtime(deterministic=True), pytest.raises(RuntimeError, match="deterministic"):
        put()
    with runtime(deterministic="warn"), pytest.warns(UserWarning, match="deterministic"):
        put()
    put()


def test_backward_names_the_operation_that_gave_a_nan():
    def nan():
        (torch.zeros(1, requires_grad=True).sqrt() * 0).sum().backward()

    with (
        runtime(detect_anomaly=True),
        pytest.warns(UserWarning, match="Error detected"),
        pytest.raises(RuntimeError, match="SqrtBackward0"),
    ):
        nan()
    nan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yes", None), "deterministic='yes' must be True, False, 'warn' or None"),
        ((1, None), "deterministic=1 must be"),
        ((None, "yes"), "benchmark='yes' must be True, False or None"),
        ((None, 1), "benchmark=1 must be"),
        ((True, True), "deterministic=True and benchmark=True contradict each other"),
        ((None, None, "yes"), "detect_anomaly='yes' must be True or False"),
    ],
)
def test_misuse(arguments, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        check(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [(None, None), (True, None), (True, False), ("warn", True), (False, True)]
)
def test_what_goes_together(arguments):
    check(*arguments)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number(value):
    with pytest.raises(
        NonFiniteLossError, match=f"is {value} in epoch 2, batch 7, rank 3;"
    ) as caught:
        check_finite(torch.tensor(float(value)), 2, 7, 3)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ArithmeticError)


def test_a_finite_loss_passes():
    check_finite(torch.tensor([1.0]), 0, 0, 0)


# --- as arguments of the Trainer -----------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_run_has_its_settings(boring, make_trainer, stage):
    seen, before = [], state()

    def setup(self, stage):
        seen.append(state())

    trainer = make_trainer(deterministic=True, detect_anomaly=True)
    getattr(trainer, stage)(boring.regression(setup=setup), boring.loader())
    assert seen == [(True, False, False, True, True, ":4096:8")]
    assert state() == before


def test_a_failed_run_puts_them_back(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        raise KeyError

    before = state()
    with pytest.raises(KeyError):
        make_trainer(deterministic="warn", benchmark=True, detect_anomaly=True).fit(
            boring.regression(training_step=training_step), boring.loader()
        )
    assert state() == before


def _nan_in_the_third_batch(self, batch, batch_idx):
    return self.loss(batch) * (float("nan") if batch_idx == 2 else 1.0)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_run_stops_at_a_loss_that_is_no_number(boring, make_trainer, accumulate):
    module = boring.regression(training_step=_nan_in_the_third_batch)
    trainer = make_trainer(detect_anomaly=True, accumulate_grad_batches=accumulate)
    with pytest.raises(NonFiniteLossError, match="in epoch 0, batch 2, rank 0"):
        trainer.fit(module, boring.loader())


def test_nobody_asked(boring, make_trainer):
    module = boring.regression(training_step=_nan_in_the_third_batch)
    make_trainer().fit(module, boring.loader())
    assert module.net[0].weight.isnan().any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"deterministic": "yes"},
        {"benchmark": 1},
        {"deterministic": True, "benchmark": True},
        {"detect_anomaly": None},
    ],
    ids=str,
)
def test_misuse_is_refused_when_the_trainer_is_made(make_trainer, arguments):
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        make_trainer(**arguments)
