"""Each rule of the bridge's, with the strategy broken in that one way: a check must fail."""

from __future__ import annotations

from contextlib import nullcontext

import hpu_rules as rules
import pytest
import torch

from torchrelay.collectives import TorchCollectives
from torchrelay.strategies import StepDispatcher, Strategy
from torchrelay_hpu import compiling, fused, graphs, placing, vendor
from torchrelay_hpu import precision as precisions
from torchrelay_hpu import strategy as strategies
from torchrelay_hpu.accelerator import HPUAccelerator
from torchrelay_hpu.collectives import HCCLCollectives
from torchrelay_hpu.marking import Marking
from torchrelay_hpu.settings import Settings

pytestmark = pytest.mark.timeout(120)


def _nothing(*args, **kwargs):
    return None


def _as_it_is(value, *args):
    return value


def _step_itself(self, step):
    return step


def _dispatched(module, step):
    return StepDispatcher(module)


def _marking_always(self):
    vendor.mark_step()


def _not_tied(module):
    return []


def _indexed(self, index):
    return torch.device("hpu", index)


def _inference(self):
    return torch.inference_mode()


def _building_first(self, module, build):
    self.adopt(module)
    self.build(build)
    self.place()


def _without_imports():
    return None


def _one_too_many():
    return [torch.hpu.get_rng_state(), torch.hpu.get_rng_state()]


# rule, what is broken: its owner, its name, what is in its place; the check that must fail
TABLE = [
    (1, Marking, "run_backward", Strategy.run_backward, rules.lazy_graphs_are_cut),
    (1, Marking, "optimizer_step", Strategy.optimizer_step, rules.lazy_graphs_are_cut),
    (1, Marking, "run_backward", Strategy.run_backward, rules.each_micro_batch_is_cut),
    (1, Marking, "evaluation_step", Strategy.evaluation_step, rules.evaluation_is_cut),
    (2, Marking, "mark", _marking_always, rules.eager_graphs_are_not_cut),
    (2, vendor, "load", _nothing, rules.a_mode_that_changes_too_late_is_refused),
    (3, Strategy, "batch_to_device", lambda self, batch: batch, rules.everything_is_on_the_device),
    (3, placing, "tied", _not_tied, rules.weights_stay_tied),
    (3, Marking, "grad_off", _inference, rules.evaluation_takes_no_inference_mode),
    (4, HPUAccelerator, "device", _indexed, rules.everything_is_on_the_device),
    (5, vendor, "tell_ranks", _nothing, rules.the_environment_is_put_back),
    (6, HCCLCollectives, "reduce", TorchCollectives.reduce, rules.what_hccl_cannot_combine_is_combined),
    (7, vendor, "tell_ranks", _nothing, rules.modules_are_chosen),
    (8, Marking, "model_state", Strategy.model_state, rules.checkpoints_are_on_the_processor),
    (8, Marking, "optimizer_state", Strategy.optimizer_state, rules.checkpoints_are_on_the_processor),
    (9, vendor, "random_state", _one_too_many, rules.the_device_s_random_state_travels),
    (9, vendor, "set_random_state", _nothing, rules.the_device_s_random_state_travels),
    (10, Settings, "refusals", lambda self: [], rules.graphs_in_eager_mode_are_refused),
    (10, Settings, "refusals", lambda self: [], rules.compiling_in_lazy_mode_is_refused),
    (10, Marking, "compiled", _step_itself, rules.compiled_steps_are_those_of_the_processor),
    (10, Settings, "compile_arguments", {"backend": "eager"}, rules.compiled_steps_are_those_of_the_processor),
    (10, strategies, "CompiledStep", _dispatched, rules.compiled_steps_are_those_of_the_processor),
    (10, compiling, "kept_apart", lambda module: nullcontext(), rules.compiled_steps_are_those_of_the_processor),
    (10, graphs, "captured", lambda wrapped: nullcontext(), rules.predictions_of_graphs_are_apart),
    (10, graphs, "_copying", _as_it_is, rules.predictions_of_graphs_are_apart),
    (11, vendor, "device_name", lambda: "GAUDI2", rules.half_floats_on_the_first_generation_are_refused),
    (11, vendor, "fp8_available", lambda: (True, ""), rules.fp8_on_the_first_generation_is_refused),
    (11, precisions.vendor, "fp8_autocast", lambda recipe: nullcontext(), rules.fp8_is_the_transformer_engine_s),
    (12, vendor, "restore", _nothing, rules.the_environment_is_put_back),
    (13, Strategy, "setup", _building_first, rules.optimizers_are_built_after_the_move),
    ("fused", fused, "fused", _as_it_is, rules.the_fused_optimizer_is_used),
    ("fused", fused, "to_torch", _as_it_is, rules.the_fused_optimizer_is_used),
    ("fused", fused, "from_torch", _as_it_is, rules.the_fused_optimizer_goes_on),
    ("fused", Marking, "clip_gradients", Strategy.clip_gradients, rules.the_fused_clipping_is_used),
]  # fmt: skip


def _name(row):
    return f"{row[0]}: {row[2]}, {row[4].__name__}, {getattr(row[3], '__name__', '')}"


@pytest.mark.parametrize("row", TABLE, ids=[f"{_name(row)}, {at}" for at, row in enumerate(TABLE)])
def test_a_strategy_that_is_broken_in_one_way_fails(row, monkeypatch):
    _, owner, name, wrong, check = row
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrong)
        with pytest.raises(Exception):  # noqa: B017, PT011 - however it fails
            check()


def test_every_rule_has_a_row():
    assert {row[0] for row in TABLE} >= set(range(1, 14))


def test_every_check_of_the_table_passes_where_nothing_is_broken():
    # test_training.py makes them all
    assert {row[4] for row in TABLE} <= set(rules.CHECKS)
