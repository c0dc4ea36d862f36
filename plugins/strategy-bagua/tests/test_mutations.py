"""Each rule of Bagua's, with the strategy broken in that one way: a check must fail."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import bagua_rules as rules
import broken_ways
import judges
import pytest
from bagua_simulated.machine import machine

from torchrelay.errors import ConfigurationError
from torchrelay.strategies import Strategy
from torchrelay_bagua import algorithms, refused, strategy, vendor
from torchrelay_bagua.algorithms import Algorithm, Decentralized
from torchrelay_bagua.collectives import BaguaCollectives
from torchrelay_bagua.strategy import BaguaStrategy
from torchrelay_bagua.taking_part import TakingPart

pytestmark = pytest.mark.timeout(120)


def _nothing(*args, **kwargs):
    return None


def _no_reasons(self, *args):
    return []


def _always_local(self):
    return self._keeping()


def _not_local(self):
    return nullcontext()


def _new_name(module):
    machine.groups += 1
    return f"another_{machine.groups}"


def _keeping_steps(self):
    self._steps_before = []
    vendor.silence(self.model)
    Strategy.unwrap(self)


def _once(self):
    if self.model is self.module:
        _wrap_again(self)


@contextmanager
def _with_state(optimizers):
    yield


def _unlucky_tuning(self, environment):
    return {**_variables(self, environment), "BAGUA_AUTOTUNE": "1"}


def _told_nothing(self, environment):
    return {}


_variables = BaguaCollectives._variables
_wrap_again = BaguaStrategy._wrap_again


UNLIKE = (AssertionError, "")
"""The check compares, and finds what should not be."""

TAKEN = (AssertionError, "not refused by UnsupportedError")


# rule, what is broken: its owner, its name, what is in its place; the check that must fail, and how
TABLE = [
    ("place", BaguaStrategy, "zero_grad", Strategy.zero_grad, rules.gradients_keep_their_place,
        (AssertionError, "data_ptr should match parameter grad")),
    ("windows", BaguaStrategy, "accumulating", _not_local, rules.gradients_are_sent_at_the_end_of_a_window, UNLIKE),
    ("missing", TakingPart, "check", _nothing, rules.a_gradient_that_is_missing_is_told, TAKEN),
    ("afterwards", vendor, "silence", _nothing, rules.nothing_is_sent_after_training, UNLIKE),
    ("step", BaguaStrategy, "unwrap", _keeping_steps, rules.optimizers_get_their_step_back, UNLIKE),
    ("objects", vendor, "release", _nothing, rules.a_trained_module_can_be_pickled, (TypeError, "cannot pickle")),
    ("objects", vendor, "release", _nothing, rules.a_part_is_trained_in_another_module,
        (AssertionError, "assigning a different name")),
    ("names", strategy, "name_of", _new_name, rules.replicas_are_of_the_checkpoint_s_weights,
        (AssertionError, "assigning a different name")),
    ("formats", refused, "formats", _nothing, rules.half_weights_are_refused,
        (ValueError, "unsupported data type torch.bfloat16")),
    ("environment", vendor, "restore", _nothing, rules.the_environment_is_put_back, (AssertionError, "RANK")),
    ("environment", BaguaCollectives, "_variables", _told_nothing, rules.the_environment_is_put_back, UNLIKE),
    ("service", BaguaCollectives, "_variables", _unlucky_tuning, rules.tuning_is_off_unless_asked_for, UNLIKE),
    ("tuning", BaguaStrategy, "refusals", _no_reasons, rules.tuning_that_cannot_be_is_refused,
        (ConfigurationError, "started without it")),
    ("restore", BaguaStrategy, "_wrap_again", _once, rules.replicas_are_of_the_checkpoint_s_weights, UNLIKE),
    ("restore", BaguaStrategy, "_wrap_again", _once, rules.qadam_goes_on_after_its_warm_up,
        (AssertionError, "data_ptr should match momentum data_ptr")),
    ("restore", strategy, "_without_state", _with_state, rules.adam_goes_on,
        (AssertionError, "the tensor must be CUDA")),
    ("qadam", refused, "optimizers", _nothing, rules.qadam_has_one_optimizer_of_its_own,
        (AttributeError, "warmup_steps")),
    ("background", vendor, "resume", _nothing, rules.the_background_begins_and_ends, UNLIKE),
    ("background", vendor, "abort", _nothing, rules.the_background_begins_and_ends, UNLIKE),
    ("background", BaguaStrategy, "accumulating", _always_local, rules.the_background_lets_windows_be,
        (RuntimeError, "locked by an earlier forward pass")),
    ("background", BaguaStrategy, "on_exception", _nothing, rules.the_background_is_left_alone_after_a_failure, UNLIKE),
    ("background", refused, "_refuse_steps_on_the_host", _nothing, rules.steps_on_the_host_are_refused,
        (AssertionError, "the tensor must be CUDA")),
    ("refused", BaguaStrategy, "check_optimizers", _nothing, rules.lbfgs_is_refused,
        (ValueError, "cannot broadcast torch.optim.LBFGS")),
    ("refused", refused, "group", _nothing, rules.a_group_is_refused, TAKEN),
    ("refused", BaguaStrategy, "refusals", _no_reasons, rules.the_processor_is_refused, TAKEN),
    ("refused", BaguaStrategy, "refusals", _no_reasons, rules.other_accelerators_are_refused, TAKEN),
    ("devices", BaguaStrategy, "_misplaced", _no_reasons, rules.devices_other_than_the_local_ranks_are_refused, TAKEN),
    ("refused", Algorithm, "refusals", _no_reasons, rules.intervals_and_windows_are_refused, TAKEN),
    ("refused", Decentralized, "refusals", Algorithm.refusals, rules.pairs_of_an_odd_number_are_refused,
        (AssertionError, "1 ranks cannot be paired")),
]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    TABLE,
    ids=[f"{row[0]}: {row[2]}, {row[4].__name__}, {at}" for at, row in enumerate(TABLE)],
)
def test_a_strategy_that_is_broken_in_one_way_fails(row, monkeypatch):
    _, owner, name, wrong, check, (kind, word) = row
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrong)
        with pytest.raises(kind) as caught:
            check()
    if word:
        assert word in str(caught.value)
    else:
        # A comparison in the check itself, and nothing on the way there.
        assert str(caught.traceback[-1].path) == rules.__file__


def test_every_check_has_a_row():
    # Of these the simulator itself is what refuses.
    by_bagua = {rules.qadam_warms_up, rules.qadam_takes_the_vendor_s_steps}
    assert {row[4] for row in TABLE} | by_bagua == set(rules.CHECKS)


# what is broken in both processes, the scenario that they run, the judge that must not be content, or what the
# processes say when they do not come that far
BETWEEN = [
    ("device_after_meeting", "exact", judges.gradient_allreduce_is_one_process,
        "choose the device before init_process_group"),
    ("meets_each_time", "exact", judges.gradient_allreduce_is_one_process,
        "the default process group is there already"),
    ("no_ranks_told", "talking", judges.each_rank_is_told_and_the_environment_put_back, ""),
    ("environment_left", "talking", judges.each_rank_is_told_and_the_environment_put_back, ""),
    ("not_wrapped", "exact", judges.gradient_allreduce_is_one_process, ""),
    ("through_the_bare_module", "decentralized", judges.decentralized_ranks_part_and_agree_on_average,
        "must be Tensor, not NoneType"),
    ("no_rest_shared", "sharing", judges.rank_0_gives_weights_and_buffers, ""),
    ("evaluates_with_own_buffers", "sharing", judges.rank_0_gives_weights_and_buffers, ""),
    ("manual_not_averaged", "by_hand", judges.manual_optimization_is_one_process, ""),
    ("checkpoint_of_one_rank", "decentralized", judges.decentralized_ranks_part_and_agree_on_average, ""),
    ("ends_without_average", "decentralized", judges.decentralized_ranks_part_and_agree_on_average, ""),
    ("never_resumed", "in_the_background", judges.async_learns_the_digits, ""),
    ("sums_for_means", "talking", judges.collectives_combine_everything, ""),
    ("averages_of_integers", "talking", judges.collectives_combine_everything, ""),
    ("sends_what_bagua_does_not", "talking", judges.collectives_combine_everything,
        "unsupported data type torch.float64"),
    ("bits_by_bagua", "talking", judges.collectives_combine_everything, "NCCL has no operation BAND"),
    ("sums_left_out", "options", judges.options_do_what_they_say, ""),
    ("options_left_out", "qadam", judges.qadam_warms_up_exactly_and_goes_on_in_8_bits, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("way", "scenario", "judge", "word"), BETWEEN, ids=[row[0] for row in BETWEEN]
)
def test_two_processes_that_are_broken_in_one_way_fail(programs, way, scenario, judge, word):
    variables = {"PYTHONPATH": judges.PYTHONPATH, "BROKEN": way}
    done = programs.run("ranks.py", scenario, **variables)
    if word:
        assert done.returncode
        assert word in done.stderr
        return
    assert done.returncode == 0, done.stderr
    with pytest.raises(AssertionError):
        judge({scenario: programs.results(scenario)})


def test_every_way_is_tried():
    assert {row[0] for row in BETWEEN} == set(broken_ways.WAYS)


def test_a_table_names_what_there_is():
    assert algorithms.ALGORITHMS.keys() == {kind.name for kind in algorithms.ALGORITHMS.values()}
