"""Each rule of the bridge's, with the strategy broken in that one way: a check must fail, and by what it says."""

from __future__ import annotations

import traceback
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


TELL = vendor.tell_ranks


def _first_of_each_machine(world_size, rank, local_rank):
    TELL(world_size, rank, 0)


def _as_if_alone_there(world_size, rank, local_rank):
    TELL(world_size, local_rank, local_rank)


# rule, what is broken: its owner, its name, what is in its place; the check that must fail; by which error, and
# words of its message or of the line of the check that it comes from
TABLE = [
    (1, Marking, "run_backward", Strategy.run_backward, rules.lazy_graphs_are_cut,
     RuntimeError, "step follows backward without mark_step"),
    (1, Marking, "optimizer_step", Strategy.optimizer_step, rules.lazy_graphs_are_cut,
     RuntimeError, "backward follows step without mark_step"),
    (1, Marking, "run_backward", Strategy.run_backward, rules.each_micro_batch_is_cut,
     RuntimeError, "backward follows backward without mark_step"),
    (1, Marking, "evaluation_step", Strategy.evaluation_step, rules.evaluation_is_cut,
     AssertionError, "validate"),
    (2, Marking, "mark", _marking_always, rules.eager_graphs_are_not_cut,
     AssertionError, 'machine.events == ["backward", "step"]'),
    (2, vendor, "load", _nothing, rules.a_mode_that_changes_too_late_is_refused,
     AssertionError, "not refused by ConfigurationError"),
    (3, Strategy, "batch_to_device", lambda self, batch: batch, rules.everything_is_on_the_device,
     RuntimeError, "found hpu and cpu"),
    (3, placing, "tied", _not_tied, rules.weights_stay_tied,
     AssertionError, "apart(mine, theirs)"),
    (3, Marking, "grad_off", _inference, rules.evaluation_takes_no_inference_mode,
     AssertionError, "(False, False)"),
    (4, HPUAccelerator, "device", _indexed, rules.everything_is_on_the_device,
     AssertionError, 'notes["device"].index is None'),
    (5, vendor, "tell_ranks", _nothing, rules.the_environment_is_put_back,
     RuntimeError, "RANK, WORLD_SIZE must be in the environment"),
    (6, HCCLCollectives, "reduce", TorchCollectives.reduce, rules.what_hccl_cannot_combine_is_combined,
     RuntimeError, "HCCL does not combine torch.int64"),
    (7, vendor, "tell_ranks", _first_of_each_machine, rules.modules_are_chosen,
     AssertionError, "met(local_rank) =="),
    (7, vendor, "tell_ranks", _as_if_alone_there, rules.modules_are_chosen,
     AssertionError, "met(local_rank) =="),
    (8, Marking, "model_state", Strategy.model_state, rules.checkpoints_are_on_the_processor,
     AssertionError, '_kinds(module.notes["state"])'),
    (8, Marking, "optimizer_state", Strategy.optimizer_state, rules.checkpoints_are_on_the_processor,
     AssertionError, '_kinds(module.notes["state"])'),
    (9, vendor, "random_state", _one_too_many, rules.the_device_s_random_state_travels,
     AssertionError, '["rng_states"][0]) == 1'),
    (9, vendor, "set_random_state", _nothing, rules.the_device_s_random_state_travels,
     AssertionError, "apart(ended, whole)"),
    (10, Settings, "refusals", lambda self: [], rules.graphs_in_eager_mode_are_refused,
     AttributeError, "wrap_in_hpu_graph"),
    (10, Settings, "refusals", lambda self: [], rules.compiling_in_lazy_mode_is_refused,
     RuntimeError, "hpu_backend is for eager mode"),
    (10, Marking, "compiled", _step_itself, rules.compiled_steps_are_those_of_the_processor,
     AssertionError, "[]"),
    (10, Settings, "compile_arguments", {"backend": "eager"}, rules.compiled_steps_are_those_of_the_processor,
     AssertionError, "[]"),
    (10, strategies, "CompiledStep", _dispatched, rules.compiled_steps_are_those_of_the_processor,
     AssertionError, "['inference']"),
    (10, compiling, "kept_apart", lambda module: nullcontext(), rules.compiled_steps_are_those_of_the_processor,
     AssertionError, "'backward', 'inference', 'inference'"),
    (10, graphs, "captured", lambda wrapped: nullcontext(), rules.predictions_of_graphs_are_apart,
     AssertionError, "graphs.replays =="),
    (10, graphs, "_copying", _as_it_is, rules.predictions_of_graphs_are_apart,
     AssertionError, "apart(found, expected)"),
    (11, vendor, "device_name", lambda: "GAUDI2", rules.half_floats_on_the_first_generation_are_refused,
     AssertionError, "not refused by UnsupportedError"),
    (11, vendor, "fp8_available", lambda: (True, ""), rules.fp8_on_the_first_generation_is_refused,
     AssertionError, "Gaudi2 or higher required"),
    (11, precisions.vendor, "fp8_autocast", lambda recipe: nullcontext(), rules.fp8_is_the_transformer_engine_s,
     AssertionError, "fp8.entered =="),
    (12, vendor, "restore", _nothing, rules.the_environment_is_put_back,
     AssertionError, "} == before"),
    (13, Strategy, "setup", _building_first, rules.optimizers_are_built_after_the_move,
     RuntimeError, "left behind on the CPU"),
    ("fused", fused, "fused", _as_it_is, rules.the_fused_optimizer_is_used,
     AssertionError, 'kind.found == "FusedAdamW"'),
    ("fused", fused, "to_torch", _as_it_is, rules.the_fused_optimizer_is_used,
     AssertionError, 'each["step"]'),
    ("fused", fused, "from_torch", _as_it_is, rules.the_fused_optimizer_goes_on,
     AssertionError, "apart(ended, whole)"),
    ("fused", Marking, "clip_gradients", Strategy.clip_gradients, rules.the_fused_clipping_is_used,
     AssertionError, "normalization.clipped) == BATCHES"),
]  # fmt: skip


def _name(row):
    return f"{row[0]}: {row[2]}, {row[4].__name__}, {getattr(row[3], '__name__', '')}"


def _line(error):
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.line for frame in frames if frame.filename == rules.__file__][-1]


@pytest.mark.parametrize("row", TABLE, ids=[f"{_name(row)}, {at}" for at, row in enumerate(TABLE)])
def test_a_strategy_that_is_broken_in_one_way_fails(row, monkeypatch):
    _, owner, name, wrong, check, kind, words = row
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrong)
        with pytest.raises(kind) as failed:
            check()
    assert words in f"{failed.value} {_line(failed.value)}"


def test_every_rule_has_a_row():
    assert {row[0] for row in TABLE} >= set(range(1, 14))


def test_every_check_of_the_table_passes_where_nothing_is_broken():
    # test_training.py makes them all
    assert {row[4] for row in TABLE} <= set(rules.CHECKS)
