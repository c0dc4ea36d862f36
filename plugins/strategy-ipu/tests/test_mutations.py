"""Each rule of PopTorch's, with the strategy broken in that one way: a check must fail."""

from __future__ import annotations

import traceback
from contextlib import nullcontext

import ipu_rules as rules
import poptorch
import pytest

from torchrelay.errors import UnsupportedError
from torchrelay.strategies import Strategy
from torchrelay_ipu import batches, optimizers, programs, step, strategy, vendor
from torchrelay_ipu.batches import Form
from torchrelay_ipu.settings import Settings
from torchrelay_ipu.strategy import IPUStrategy
from torchrelay_ipu.vendor import IPUError

pytestmark = pytest.mark.timeout(120)

_counts, _options = vendor.set_counts, Settings.options


def _never_accumulating(options, *, iterations, replicas, accumulation):
    _counts(options, iterations=iterations, replicas=replicas, accumulation=1)


def _counts_of_another_type(options, *, iterations, replicas, accumulation):
    _counts(options, iterations=float(iterations), replicas=replicas, accumulation=accumulation)


def _replicas_forgotten(options, *, iterations, replicas, accumulation):
    _counts(options, iterations=iterations, replicas=1, accumulation=accumulation)


def _iterations_forgotten(options, *, iterations, replicas, accumulation):
    _counts(options, iterations=1, replicas=replicas, accumulation=iterations * accumulation)


def _accumulating_inference(self, *, iterations, replicas, accumulation, training):
    return _options(
        self, iterations=iterations, replicas=replicas, accumulation=accumulation + (not training), training=training
    )  # fmt: skip


_step_of, _converted = step.TracedStep, optimizers.converted


def _not_recording(self, outputs):
    return nullcontext()


def _not_clipping(optimizer, max_norm):
    return _converted(optimizer, None)


def _short_windows_unscaled(module, made, rebuild, scale=None):
    return _step_of(module, made, rebuild, None if scale is None else 1.0)


def _nothing_taken(optimizer, state):
    optimizer.set_state_dict({"ipu_state": {f"x{n}": t for n, t in state.items()}, "ipu_param": {}})


def _seeding_the_run(options, number):
    options.randomSeed(number)


def _only_destroying(model, module):
    model.destroy()


def _destroying_alone(self):
    self.model.destroy()


def _attaching_always(self, program, call):
    self.active = program
    if vendor.compiled(program.model):
        vendor.attach(program.model)


def _nothing(*args, **kwargs):
    return None


def _as_it_is(value, *args):
    return value


# rule, what is broken: its owner, its name, what is in its place; the check that must fail, with which error, and a
# part of its message or of the line that raised it
TABLE = [
    (
        1,
        IPUStrategy,
        "load_model_state",
        Strategy.load_model_state,
        rules.loaded_weights_reach_the_device,
        AssertionError,
        "module.seen[2]",
    ),
    (
        2,
        vendor,
        "copied",
        _as_it_is,
        rules.options_of_the_user_are_copied,
        AttributeError,
        "frozen Options",
    ),
    (
        2,
        vendor,
        "set_counts",
        _counts_of_another_type,
        rules.windows_are_those_of_one_process,
        ValueError,
        "takes int, not float",
    ),
    (
        3,
        vendor,
        "set_counts",
        _never_accumulating,
        rules.what_a_step_logs_is_logged_for_every_batch,
        RuntimeError,
        "is invalid for input of size 2",
    ),
    (
        3,
        vendor,
        "set_counts",
        _replicas_forgotten,
        rules.what_a_step_logs_is_logged_for_every_batch,
        RuntimeError,
        "is invalid for input of size 1",
    ),
    (
        3,
        vendor,
        "set_counts",
        _iterations_forgotten,
        rules.several_updates_in_a_call,
        AssertionError,
        "apart(mine, theirs)",
    ),
    (
        3,
        batches,
        "_check_divides",
        _nothing,
        rules.what_cannot_be_divided_is_refused,
        AssertionError,
        "Invalid batch dimension",
    ),
    (
        3,
        vendor,
        "return_everything",
        _nothing,
        rules.what_a_step_logs_is_logged_for_every_batch,
        RuntimeError,
        "is invalid for input of size 2",
    ),
    (
        3,
        programs,
        "_combined",
        lambda values, reduce_fx: values[-1],
        rules.what_a_step_logs_is_logged_for_every_batch,
        AssertionError,
        "apart(mine, theirs)",
    ),
    (
        4,
        Form,
        "__eq__",
        lambda self, other: True,
        rules.a_short_last_batch_is_trained_on,
        IPUError,
        "compiled for the inputs",
    ),
    (
        4,
        batches,
        "check_form",
        _nothing,
        rules.another_shape_is_refused,
        RuntimeError,
        "shapes cannot be multiplied",
    ),
    (
        4,
        batches,
        "check_form",
        _nothing,
        rules.another_value_is_refused,
        AssertionError,
        "not refused",
    ),
    (5, vendor, "mark_loss", _as_it_is, rules.the_loss_is_marked, IPUError, "0 losses are marked"),
    (
        5,
        IPUStrategy,
        "backward",
        lambda self, loss: self.backward_through(loss),
        rules.the_loss_is_marked,
        RuntimeError,
        "does not require grad",
    ),
    (5, step, "_with_loss", _as_it_is, rules.a_missing_loss_is_refused, TypeError, "NoneType"),
    (
        6,
        programs.Programs,
        "release",
        _nothing,
        rules.stages_take_turns,
        IPUError,
        "Failed to acquire",
    ),
    (
        6,
        programs.Programs,
        "activate",
        _attaching_always,
        rules.stages_take_turns,
        IPUError,
        "already attached",
    ),
    (
        7,
        programs.Program,
        "_forward_settings",
        _nothing,
        rules.learning_rates_reach_the_device,
        AssertionError,
        "1.0, 1.0",
    ),
    (
        7,
        optimizers,
        "converted",
        _as_it_is,
        rules.optimizer_state_comes_back,
        AssertionError,
        "mine.found",
    ),
    (
        7,
        vendor,
        "write_state",
        _nothing,
        rules.loaded_optimizer_state_reaches_the_device,
        AssertionError,
        "== 101",
    ),
    (
        7,
        vendor,
        "write_state",
        _nothing_taken,
        rules.loaded_optimizer_state_reaches_the_device,
        AssertionError,
        "== 101",
    ),
    (
        8,
        vendor,
        "release",
        _nothing,
        rules.a_module_is_wrapped_again,
        IPUError,
        "All buffers must be",
    ),
    (
        8,
        vendor,
        "release",
        _only_destroying,
        rules.a_failed_trace_leaves_the_module_free,
        AssertionError,
        "module.buffers()",
    ),
    (
        9,
        Settings,
        "options",
        _accumulating_inference,
        rules.validation_beside_accumulation,
        AssertionError,
        "Gradient accumulation",
    ),
    (
        10,
        optimizers,
        "converted",
        _as_it_is,
        rules.optimizers_that_are_not_there_are_refused,
        IPUError,
        "Unsupported optimizer",
    ),
    (
        11,
        Settings,
        "refusals",
        lambda *args: [],
        rules.a_number_that_is_no_power_of_two_is_refused,
        IPUError,
        "no power of 2",
    ),
    (
        12,
        vendor,
        "use_emulator",
        lambda: False,
        rules.the_emulator_is_had_on_request,
        UnsupportedError,
        "does not find",
    ),
    (
        12,
        vendor,
        "available",
        lambda number: True,
        rules.ipus_that_are_not_there_are_refused,
        IPUError,
        "Failed to acquire 4",
    ),
    (
        13,
        step.TracedStep,
        "_recording",
        _not_recording,
        rules.what_a_step_logs_is_logged_for_every_batch,
        RuntimeError,
        "tracing tensor",
    ),
    (13, step, "NoIndex", int, rules.a_batch_s_index_is_refused, AssertionError, "not refused"),
    (
        "short windows",
        strategy,
        "TracedStep",
        _short_windows_unscaled,
        rules.windows_are_those_of_one_process,
        AssertionError,
        "apart(mine, theirs)",
    ),
    (
        "random numbers",
        vendor,
        "seed",
        _seeding_the_run,
        rules.the_run_s_random_numbers_are_its_own,
        AssertionError,
        "torch.equal(*states)",
    ),
    (
        "clipping",
        optimizers,
        "converted",
        _not_clipping,
        rules.clipping_is_the_device_s,
        AssertionError,
        "apart(mine, theirs)",
    ),
    (
        "lost device",
        programs.Program,
        "release",
        _destroying_alone,
        rules.a_lost_device_leaves_the_module_free,
        poptorch.Error,
        "lost in",
    ),
]


def _name(row):
    return f"{row[0]}: {row[2]}, {row[4].__name__}, {getattr(row[3], '__name__', '')}"


@pytest.mark.parametrize("row", TABLE, ids=[f"{_name(row)}, {at}" for at, row in enumerate(TABLE)])
def test_a_strategy_that_is_broken_in_one_way_fails(row, monkeypatch):
    _, owner, name, wrong, check, kind, words = row
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrong)
        with pytest.raises(kind) as raised:
            check()
    assert raised.type is kind
    line = traceback.extract_tb(raised.tb)[-1].line
    assert words in f"{line}: {raised.value}"


def test_every_rule_has_a_row():
    assert {row[0] for row in TABLE} >= set(range(1, 14))


def test_every_check_of_the_table_passes_where_nothing_is_broken():
    # test_training.py makes them all
    assert {row[4] for row in TABLE} <= set(rules.CHECKS)
