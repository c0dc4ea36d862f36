"""Training under each strategy arrives where one process does, on the same global batches."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from torchrelay import LightningModule, Trainer
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay_fairscale import DDPFullyShardedStrategy, DDPShardedStrategy, FullyShardedConfig

pytestmark = pytest.mark.timeout(300)

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)

THREE = {"accumulate_grad_batches": 3}  # 7 batches an epoch: the last window of each is a short one
CLIPPED = {"gradient_clip_val": 0.1}
BY_VALUE = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
EVALUATION = ["validate", "test", "predict"]

SHARDED = "ddp_sharded"
UNITS = {"min_num_params": 50}
"""Each of the two layers is a unit, of a module that has neither's parameters itself."""

FLAT = {"flatten_parameters": True}

STRATEGIES = {
    "sharded": SHARDED,
    "fully": {},
    "units": UNITS,
    "not flattened": {**UNITS, "flatten_parameters": False},
    "whole between": {**UNITS, "reshard_after_forward": False, "bucket_cap_mb": 0},
}

ADAMW = {"module": "Regression", "arguments": {"optimizer": "adamw"}}

EVERYWHERE = {
    "sgd": {"module": "Regression", "do": ["fit", *EVALUATION]},
    "sgd, accumulated, clipped": {"module": "Regression", "trainer": {**THREE, **CLIPPED}},
    "sgd, clipped by value": {"module": "Regression", "trainer": BY_VALUE},
    "adamw": {**ADAMW, "trainer": {**THREE, **CLIPPED}},
}
"""What is done under each strategy."""

ELSEWHERE = {
    # OSS
    "tied, sharded": {"module": "Tied", "strategy": SHARDED},
    "frozen, sharded": {"module": "Frozen", "strategy": SHARDED},
    "unused, sharded": {
        "module": "Unused",
        "strategy": {"sharded": {"find_unused_parameters": True}},
    },
    "never used, sharded": {
        "module": "Unused",
        "arguments": {"every": 0},
        "strategy": {"sharded": {"find_unused_parameters": True}},
    },
    "static, sharded": {
        "module": "Regression",
        "trainer": THREE,
        "strategy": {"sharded": {"static_graph": True, "bucket_cap_mb": 1}},
    },
    "by step, sharded": {"module": "Scheduled", "strategy": SHARDED},
    "by epoch, sharded": {
        "module": "Scheduled",
        "arguments": {"interval": "epoch"},
        "strategy": "ddp_sharded_find_unused_parameters_false",
    },
    "grouped, sharded": {"module": "Grouped", "strategy": SHARDED},
    "adagrad, sharded": {
        "module": "Regression",
        "arguments": {"optimizer": "adagrad"},
        "strategy": SHARDED,
    },
    "own optimizer, sharded": {"module": "OwnOptimizer", "strategy": SHARDED},
    "own step, sharded": {"module": "OwnStep", "strategy": SHARDED, "trainer": THREE},
    "carrying, sharded": {"module": "Carrying", "strategy": SHARDED},
    "watching, sharded": {"module": "Watching", "strategy": SHARDED, "trainer": THREE},
    "double, sharded": {
        "module": "Regression",
        "strategy": SHARDED,
        "trainer": {"precision": "64-true"},
    },
    **{
        f"{how} cleared, sharded": {
            "module": "Clearing",
            "arguments": {"how": how},
            "strategy": SHARDED,
        }
        for how in ("module", "optimizer", "parameters", "zeros")
    },
    **{
        f"by hand, {how} cleared, sharded": {
            "module": "ByHand",
            "arguments": {"how": how},
            "strategy": SHARDED,
        }
        for how in ("own", "module", "optimizer", "parameters", "zeros")
    },
    "again, sharded": {**ADAMW, "strategy": [SHARDED, SHARDED]},
    "size, sharded": {
        "module": "Sized",
        "arguments": {"optimizer": "adamw"},
        "strategy": SHARDED,
    },
    # fully sharded
    # Flattened with others, a layer that takes no part has gradients of zero.
    "unused, fully": {"module": "Unused", "alone": {"zero": True}, "strategy": {}},
    "tied, fully": {"module": "Tied", "strategy": {}},
    "tied, not flattened": {"module": "Tied", "strategy": {"flatten_parameters": False}},
    "frozen, units": {"module": "Frozen", "strategy": UNITS},
    "frozen, fully": {"module": "Frozen", "strategy": {}},
    "frozen, not flattened": {"module": "Frozen", "strategy": {"flatten_parameters": False}},
    "by step, fully": {"module": "Scheduled", "strategy": {}},
    "by layer, units": {"module": "ByLayer", "strategy": UNITS},
    "grouped, fully": {"module": "Grouped", "strategy": {}},
    "grouped, not flattened": {"module": "Grouped", "strategy": {"flatten_parameters": False}},
    "adagrad, units": {
        "module": "Regression",
        "arguments": {"optimizer": "adagrad"},
        "strategy": UNITS,
    },
    "own optimizer, units": {"module": "OwnOptimizer", "strategy": UNITS},
    "own step, units": {"module": "OwnStep", "strategy": UNITS, "trainer": THREE},
    "a policy": {"module": "Sized", "strategy": {"policy": "large_first"}},
    "size, fully": {"module": "Sized", "arguments": {"optimizer": "adamw"}, "strategy": {}},
    "size, units": {"module": "Sized", "arguments": {"optimizer": "adamw"}, "strategy": UNITS},
    "offloaded": {**ADAMW, "strategy": {**UNITS, "cpu_offload": True}, "trainer": THREE},
    "gradients offloaded": {**ADAMW, "strategy": {"move_grads_to_cpu": True}},
    **{
        f"made late, {inner or 'plain'}, fully": {
            "module": "MadeLate",
            "arguments": {"inner": inner},
            "strategy": {},
            "do": ["fit", *EVALUATION],
        }
        for inner in ("", "wrap", "checkpoint", "wrap checkpoint")
    },
    "evaluation alone, units": {"module": "Regression", "strategy": UNITS, "do": EVALUATION},
    "several loaders, units": {
        "module": "Regression",
        "strategy": UNITS,
        "do": ["validate"],
        "several": True,
    },
    "one after another": {**ADAMW, "strategy": [UNITS, SHARDED, {"flatten_parameters": False}]},
}

INEXACT = {
    **{
        f"{short}, {name}": {
            "module": "Regression",
            "strategy": strategy,
            "trainer": {"precision": short, **THREE, **CLIPPED},
            "do": ["fit", *EVALUATION],
        }
        for short in ("bf16-mixed", "16-mixed")
        for name, strategy in (("sharded", SHARDED), ("units", UNITS))
    },
    "bf16-mixed, reduced in fp32": {
        "module": "Regression",
        "strategy": {"fp32_reduce_scatter": True, "buffer_dtype": "float32"},
        "trainer": {"precision": "bf16-mixed"},
    },
    "broadcast in 16 bits, sharded": {
        "module": "Regression",
        "strategy": {"sharded": {"broadcast_fp16": True}},
    },
}

ALONE_OTHERWISE = {
    "batch norm, sharded": {"module": "Normalized", "strategy": SHARDED},
    "batch norm, fully": {"module": "Normalized", "strategy": {}},
    "overflowing, sharded": {
        "module": "Overflowing",
        "strategy": SHARDED,
        "trainer": {"precision": "16-mixed"},
    },
    "overflowing, units": {
        "module": "Overflowing",
        "strategy": UNITS,
        "trainer": {"precision": "16-mixed"},
    },
    "hooks counted": {"module": "HooksCounted", "strategy": {}, "trainer": THREE},
    "reading": {"module": "Reading", "strategy": UNITS, "do": ["fit", "validate"]},
    "without weights": {**ADAMW, "strategy": {**UNITS, "whole_after_fit": False}},
}
"""What nobody else does in the same way."""

EXACT = {
    **{
        f"{what}, {name}": {**case, "strategy": strategy}
        for what, case in EVERYWHERE.items()
        for name, strategy in STRATEGIES.items()
    },
    **ELSEWHERE,
}
COMPARED = {**EXACT, **INEXACT}

REFUSED = {
    "lbfgs, sharded": (
        {"module": "Regression", "arguments": {"optimizer": "lbfgs"}, "strategy": SHARDED},
        "LBFGS needs an optimizer that calls its closure several times",
    ),
    "lbfgs, fully": (
        {"module": "Regression", "arguments": {"optimizer": "lbfgs"}, "strategy": {}},
        "LBFGS needs an optimizer that calls its closure several times",
    ),
    "no loss, sharded": ({"module": "NoLoss", "strategy": SHARDED}, "training_step returning None"),
    "no loss, fully": ({"module": "NoLoss", "strategy": {}}, "training_step returning None"),
    "unfrozen": (
        {"module": "Frozen", "arguments": {"until": 3}, "strategy": SHARDED},
        "first.weight was frozen when training began",
    ),
    "two formats": ({"module": "Mixed", "strategy": SHARDED}, "parameters of several formats"),
    "nothing to round": (
        {
            "module": "Regression",
            "strategy": {"sharded": {"broadcast_fp16": True}},
            "trainer": {"precision": "64-true"},
        },
        "broadcast_fp16=True sends weights of fp32",
    ),
    "groups apart": (
        {"module": "Grouped", "strategy": FLAT},
        "the optimizer has first.weight and first.bias in different groups",
    ),
    "left out": ({"module": "Some", "strategy": FLAT}, "in different groups, or only one of them"),
    "elsewhere": (
        {"module": "Elsewhere", "strategy": {}},
        "a parameter of shape (3,) that is none",
    ),
    "frozen with others": (
        {"module": "Frozen", "strategy": FLAT},
        "some that are trained and some that are frozen in one unit",
    ),
    "formats with others": ({"module": "Mixed", "strategy": FLAT}, "in one unit"),
    "tied apart": (
        {"module": "Tied", "strategy": {"min_num_params": 20}},
        "embed.weight and back.weight is used in several places",
    ),
    "gradients": ({"module": "Watching", "strategy": {}}, "on_before_optimizer_step needs"),
    "pair": ({"module": "Pair", "strategy": {}}, "2 optimizers"),
}
"""What is only known when the processes run, and what they say, each of them."""


@pytest.fixture(scope="module")
def outcomes(shared):
    """What each of two ranks, and one process alone, arrived at in each case."""
    asked = {**COMPARED, **ALONE_OTHERWISE}
    asked |= {name: {**case, "refused": True} for name, (case, _) in REFUSED.items()}
    both, alone = shared.folder / "both.json", shared.folder / "alone.json"
    both.write_text(json.dumps(asked))
    alone.write_text(json.dumps(COMPARED))
    processes = [
        shared.start("runs.py", "2", str(both), launcher=TORCHRUN),
        shared.start("runs.py", "1", str(alone)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    ranks = shared.results("runs-2")
    (one,) = shared.results("runs-1", ranks=1)
    return ranks, one


def tolerance(name):
    """AdamW's first updates are of the learning rate's size whatever the gradients'."""
    if name in INEXACT:
        return 0.02
    return 1e-6 if COMPARED[name].get("arguments", {}).get("optimizer") != "adamw" else 1e-5


@pytest.mark.parametrize("name", COMPARED)
def test_both_ranks_arrive_where_one_process_does(outcomes, distance, name):
    ranks, alone = outcomes
    one, near = alone[name], tolerance(name)
    for rank in (outcome[name] for outcome in ranks):
        assert distance(rank["state"], ranks[0][name]["state"]) == 0
        assert rank["steps"] == one["steps"]
        assert rank["metrics"].keys() == one["metrics"].keys()
        assert distance(rank["state"], one["state"]) <= near
        for metric, value in rank["metrics"].items():
            assert value == pytest.approx(one["metrics"][metric], abs=max(near, 1e-5))
        if "fit" in COMPARED[name].get("do", ["fit"]) and "made late" not in name:
            assert distance(rank["initial"], rank["state"]) > 0.01


@pytest.mark.parametrize("name", [*COMPARED, *ALONE_OTHERWISE])
def test_nothing_is_left_behind(outcomes, name):
    for rank in (outcome[name] for outcome in outcomes[0]):
        left = rank["left"]
        if name == "without weights":
            assert {tuple(tensor.shape) for tensor in rank["state"].values()} == {(0,)}
        else:
            mine, *copies = left["outputs"]
            for other in copies:
                torch.testing.assert_close(mine, other, rtol=0, atol=0)
        double = COMPARED.get(name, {}).get("trainer", {}).get("precision") == "64-true"
        assert {key: left[key] for key in left if key != "outputs"} == {
            "wrappers": [],
            "marks": [],
            "kinds": {nn.Parameter},
            "views": [],
            "storages": [],
            "devices": {"cpu"},
            "dtypes": {torch.float64 if double else torch.float32},
            "backward hooks": [],
            "hooks": [],
            "connected": False,
        }


@pytest.mark.parametrize("name", [n for n in COMPARED if n.endswith("sharded")])
def test_gradients_are_left_as_one_process_leaves_them(outcomes, name):
    for rank in outcomes[0]:
        assert rank[name]["gradients"] == outcomes[1][name]["gradients"]


@pytest.mark.parametrize(
    "name", [n for n, case in COMPARED.items() if "predict" in case.get("do", [])]
)
def test_predictions_are_those_of_one_process(outcomes, name):
    ranks, alone = outcomes
    expected = dict(_by_index(alone[name]["predict"]))
    found = dict(pair for rank in ranks for pair in _by_index(rank[name]["predict"]))
    assert found.keys() == expected.keys()
    for index, output in found.items():
        near = 0.05 if name in INEXACT else 1e-5
        torch.testing.assert_close(output, expected[index], rtol=0, atol=near)


def _by_index(batches):
    for indices, outputs in batches:
        yield from zip(indices.tolist(), outputs, strict=True)


def test_optimizers_become_sharded_ones(outcomes):
    for rank in outcomes[0]:
        assert rank["frozen, sharded"]["optimizers"] == ["OSS"]
        assert rank["by hand, own cleared, sharded"]["optimizers"] == ["OSS", "OSS"]
        assert rank["frozen, units"]["optimizers"] == ["AdamW"]


def test_what_ranks_keep_adds_up_to_the_whole(outcomes):
    ranks, alone = outcomes
    whole = sum(tensor.numel() for tensor in alone["sgd, sharded"]["state"].values())
    for name, padding in (("size, sharded", 0), ("size, fully", 2), ("size, units", 4)):
        kept = [rank[name]["facts"]["state"] for rank in ranks]
        assert 2 * whole <= sum(kept) <= 2 * (whole + padding)
        assert max(kept) <= 1.3 * whole  # two moments, a half of each
        parameters = [rank[name]["facts"]["parameters"] for rank in ranks]
        assert all((p == whole) == (name == "size, sharded") for p in parameters)


def test_units_are_what_was_asked_for(outcomes):
    for rank in outcomes[0]:
        assert len(rank["size, fully"]["facts"]["units"]) == 1
        assert len(rank["size, units"]["facts"]["units"]) == 3
        paths = rank["a policy"]["facts"]["units"]
        assert [path.rpartition(".")[2] for path in paths] == ["", "first"]


def test_layers_are_made_sharded(outcomes):
    ranks, alone = outcomes
    for rank in ranks:
        facts = rank["made late, wrap, fully"]["facts"]
        assert facts["sizes"] == [128, 16, (16 * 16 + 16 + 16 * 4 + 4) // 2]
        plain = rank["made late, plain, fully"]["facts"]
        assert plain["sizes"] == alone["made late, plain, fully"]["facts"]["sizes"]


def test_checkpoint_wrapper_computes_activations_twice(outcomes):
    def computed(inner):
        return outcomes[0][0][f"made late, {inner}, fully"]["facts"]["computed"]

    # Once more in each of 14 backward passes, and nothing more.
    assert computed("checkpoint") == computed("plain") + 14
    assert computed("wrap checkpoint") == computed("wrap") + 14


@pytest.mark.parametrize("name", ["by step, sharded", "by epoch, sharded", "by step, fully"])
def test_rates_are_those_of_the_schedule(outcomes, name):
    rates = [outcome[name]["facts"]["rates"] for outcome in (*outcomes[0], outcomes[1])]
    assert len(set(rates[0])) > 1
    assert rates[0] == rates[1] == pytest.approx(rates[2])


def test_gradients_that_are_seen_are_averaged(outcomes):
    ranks, alone = outcomes
    expected = alone["watching, sharded"]["facts"]["gradients"]
    for rank in ranks:
        found = rank["watching, sharded"]["facts"]["gradients"]
        assert len(found) == len(expected) == 14
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["own optimizer, sharded", "own optimizer, units"])
def test_an_optimizer_stays_what_its_author_made_it(outcomes, name):
    alone = outcomes[1][name]["facts"]
    assert alone["updates"] == 14
    for rank in outcomes[0]:
        assert rank[name]["facts"] == alone  # of the hooks' calls too


@pytest.mark.parametrize("name", ["overflowing, sharded", "overflowing, units"])
def test_an_overflow_on_one_rank_skips_the_update_on_all(outcomes, distance, name):
    first, second = (rank[name] for rank in outcomes[0])
    assert distance(first["state"], second["state"]) == 0
    assert all(tensor.isfinite().all() for tensor in first["state"].values())
    scales = first["facts"]["scales"]
    assert scales == second["facts"]["scales"]
    # Batch 2 of each epoch of 7.
    assert scales[2] == scales[1] / 2
    assert scales[9] == scales[8] / 2


@pytest.mark.parametrize("name", ["batch norm, sharded", "batch norm, fully"])
def test_batch_norm_ends_with_the_statistics_of_rank_0(outcomes, distance, name):
    first, second = (rank[name]["state"] for rank in outcomes[0])
    assert "shift" not in first
    assert first["norm.num_batches_tracked"] == 14
    weights = {key for key in first if "running" not in key}
    assert distance({k: first[k] for k in weights}, {k: second[k] for k in weights}) == 0
    other = outcomes[0][0]["batch norm, sharded"]["state"]
    assert distance(first, other) <= 1e-6


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_all_ranks_alike(outcomes, name):
    message = REFUSED[name][1]
    for rank in outcomes[0]:
        assert message in rank[name]["refused"]
        assert "\n" not in rank[name]["refused"]
        assert not rank[name]["connected"]


# --- what FairScale's own wrapper does ------------------------------------------------------------------


def test_with_fairscale_s_own_wrapper_gradients_would_be_lost(programs):
    """Why gradients are averaged by DistributedDataParallel; should this fail, FairScale has been mended."""
    ranks = programs.train("bare.py", launcher=TORCHRUN, name="bare")
    for rank in ranks:
        # How far from one process: its gradients set to None, set to zero, kept in no buckets; and torch's wrapper.
        assert rank["buckets, none"] > 1e-2
        assert rank["buckets, zeros"] <= 1e-6
        assert rank["no buckets, none"] <= 1e-6
        assert rank["ddp, none"] <= 1e-6
        # Two backward passes before an update: the second is not averaged, or what was averaged is averaged again.
        assert rank["no buckets, twice"] > 1e-3
        assert rank["ddp, twice"] <= 1e-6


# --- before any process starts --------------------------------------------------------------------------


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByHand(Module):
    automatic_optimization = False


class Anywhere(DDPFullyShardedStrategy):
    """Refuses all that it would on a GPU."""

    runs_on = ("cpu",)


def refusal(strategy, module=None, **arguments):
    """What is said; the launcher would run the tests themselves again."""
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    with pytest.raises((ConfigurationError, UnsupportedError)) as raised:
        Trainer(strategy=strategy, accelerator="cpu", devices=2, **quiet, **arguments).fit(
            module or Module(), [torch.ones(1, 2)]
        )
    assert "\n" not in str(raised.value)
    assert not torch.distributed.is_initialized()
    return str(raised.value)


@pytest.mark.parametrize(
    "strategy", ["ddp_fully_sharded", DDPFullyShardedStrategy()], ids=["alias", "instance"]
)
def test_fully_sharded_is_refused_on_the_cpu(strategy):
    message = refusal(strategy)
    assert "computes on CUDA streams" in message
    assert 'strategy="ddp_sharded", which runs on the CPU too' in message


@pytest.mark.parametrize(
    ("config", "arguments", "parts"),
    [
        ({}, {"precision": "64-true"}, ["64-true", "32-true, bf16-mixed, 16-mixed"]),
        (
            {"compute_dtype": "bfloat16"},
            {},
            ["compute_dtype='bfloat16' contradicts precision='32-true'", "'bf16-mixed'"],
        ),
        (
            {"compute_dtype": "bfloat16"},
            {"precision": "16-mixed"},
            ["compute_dtype='bfloat16' contradicts precision='16-mixed'"],
        ),
        ({"fp32_reduce_scatter": True}, {}, ["fp32_reduce_scatter=True is of use in 16 bits"]),
        ({"buffer_dtype": "float32"}, {}, ["buffer_dtype='float32' is of use in 16 bits"]),
    ],
)
def test_what_contradicts_the_precision_is_refused(config, arguments, parts):
    message = refusal(Anywhere(FullyShardedConfig(**config)), **arguments)
    for part in parts:
        assert part in message


def test_manual_optimization_is_refused_where_weights_are_sharded():
    assert "backward would run inside" in refusal(Anywhere(), ByHand())


def test_synchronised_batch_norm_is_refused_on_the_cpu():
    assert "SyncBatchNorm runs on GPUs only" in refusal(DDPShardedStrategy(), sync_batchnorm=True)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"min_num_params": 0}, "a whole number from 1"),
        ({"min_num_params": True}, "a whole number from 1"),
        ({"bucket_cap_mb": -1}, "a whole number from 0"),
        ({"policy": 3}, "a function"),
        ({"cpu_offload": "yes"}, "True or False"),
        ({"move_grads_to_cpu": 1}, "True or False"),
        ({"compute_dtype": "float32"}, "'float16' or 'bfloat16'"),
        ({"buffer_dtype": torch.float32}, "'float16' or 'bfloat16' or 'float32'"),
    ],
)
def test_values_that_cannot_be_are_refused(options, wanted):
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"{name}=.* must be {wanted}"):
        FullyShardedConfig(**options)


def test_weights_outside_of_a_step_are_empty(outcomes):
    for rank in outcomes[0]:
        facts = rank["reading"]["facts"]
        assert facts.keys() == {"start", "batch", "validation", "end"}
        for noted in facts.values():
            assert noted
            assert all(sizes == {"first": 0, "second": 0} for sizes in noted)


def test_hooks_of_earlier_steps_do_not_run_again(outcomes):
    for rank in outcomes[0]:
        ran = rank["hooks counted"]["facts"]["ran"]
        assert len(ran) > 14
        assert set(ran) == {1}
