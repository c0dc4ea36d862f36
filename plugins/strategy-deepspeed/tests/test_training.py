"""Training under each ZeRO stage arrives where one process does, on the same global batches."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from torch import nn

from torchrelay import LightningModule, Trainer
from torchrelay.errors import ConfigurationError, UnsupportedError

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

# The first test waits for some 150 trainings, which take minutes where other things run.
pytestmark = pytest.mark.timeout(960)

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)

FP16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()

STAGES = (0, 1, 2, 3)

THREE = {"accumulate_grad_batches": 3}  # 7 batches an epoch: the last window of each is a short one
CLIPPED = {"gradient_clip_val": 0.1}


def of_stage(stage, **more):
    """DeepSpeed's configuration of a stage."""
    sections = dict(more)
    zero = {"stage": stage, **sections.pop("zero_optimization", {})}
    return {"config": {"zero_optimization": zero, **sections}}


def on_cpu(*what):
    return {"zero_optimization": {f"offload_{each}": {"device": "cpu"} for each in what}}


SMALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""At stage 3 DeepSpeed leaves parameters below 100000 elements whole; these are not to be."""

EVALUATION = ["validate", "test", "predict"]

EQUAL = {
    "sgd": {"module": "Regression"},
    "sgd, accumulated": {"module": "Regression", "trainer": THREE},
    "sgd, clipped": {"module": "Regression", "trainer": CLIPPED},
    "sgd, accumulated, clipped": {"module": "Regression", "trainer": {**THREE, **CLIPPED}},
    "large gradients": {"module": "Large", "do": ["fit", *EVALUATION]},
    "tied weights": {"module": "Tied", "arguments": {"optimizer": "sgd"}},
    "frozen layer": {"module": "Frozen", "arguments": {"optimizer": "sgd"}},
    "unused layer": {"module": "Unused"},
    "own backward": {"module": "OwnBackward", "trainer": THREE},
    "own step": {"module": "OwnStep", "trainer": THREE},
    "scheduled by step": {"module": "Scheduled"},
    "scheduled by epoch": {"module": "Scheduled", "arguments": {"interval": "epoch"}},
    "evaluation alone": {"module": "Regression", "do": EVALUATION},
    "several loaders": {"module": "Regression", "do": ["fit", "validate"], "several": True},
    "made late": {"module": "MadeLate", "do": ["fit", *EVALUATION]},
    "whole weights": {"module": "Wholes"},
    "checkpointing, torch's": {"module": "Checkpointed", "arguments": {"by": "torch"}},
}
"""What is done at each stage, to 1e-6."""

SOMETIMES = {
    "sometimes unused": {"module": "Sometimes", "alone": {"zero": True}},
    "sometimes unused, accumulated": {
        "module": "Sometimes",
        "alone": {"zero": True},
        "trainer": {"accumulate_grad_batches": 2},
    },
    "unused on some ranks": {"module": "Differing"},
}
"""What is missing counts as zero; one process has gradients of zero for that."""

CLOSE = {
    "adamw": {"module": "Regression", "arguments": {"optimizer": "adamw"}},
    "adamw, accumulated, clipped": {
        "module": "Regression",
        "arguments": {"optimizer": "adamw"},
        "trainer": {**THREE, **CLIPPED},
    },
    "tied weights, adamw": {"module": "Tied"},
}
"""What is done at each stage, to 1e-5."""

BFLOAT = {"trainer": {"precision": "bf16-mixed", **THREE}, "do": ["fit", *EVALUATION]}
HALF = {"trainer": {"precision": "16-mixed"}, "do": ["fit", *EVALUATION]}
ADAM = {"optimizer": {"type": "Adam", "params": {"lr": 0.01, "weight_decay": 0.0}}}
WARMUP = {
    "scheduler": {
        "type": "WarmupLR",
        "params": {
            "warmup_min_lr": 0.0,
            "warmup_max_lr": 0.05,
            "warmup_num_steps": 4,
            "warmup_type": "linear",
        },
    }
}
ACTIVATIONS = {"activation_checkpointing": {"partition_activations": False}}


def at(stage, case, **settings):
    """A case at a stage."""
    merged = {**settings}
    merged["zero_optimization"] = {
        **SMALL["zero_optimization"],
        **settings.get("zero_optimization", {}),
    }
    return {**case, "strategy": of_stage(stage, **merged)}


CASES = {
    f"{name}, stage {stage}": at(stage, case)
    for name, case in {**EQUAL, **CLOSE, "bf16": {"module": "Regression", **BFLOAT}}.items()
    for stage in STAGES
}
CASES |= {
    f"{name}, stage {stage}": {**case, "strategy": of_stage(stage)}
    for name, case in SOMETIMES.items()
    for stage in STAGES
    if (name, stage) != ("unused on some ranks", 3)
}
CASES |= {
    "sometimes unused, divided": at(3, SOMETIMES["sometimes unused"]),
    **{
        f"sometimes unused, several buckets, stage {stage}": at(
            stage, SOMETIMES["sometimes unused"], zero_optimization={"reduce_bucket_size": 100}
        )
        for stage in (1, 2, 3)
    },
    "sometimes unused, accumulated, divided": at(3, SOMETIMES["sometimes unused, accumulated"]),
    **{
        f"sometimes unused, optimizer on the CPU, stage {stage}": at(
            stage, SOMETIMES["sometimes unused, accumulated"], **on_cpu("optimizer")
        )
        for stage in (1, 2, 3)
    },
    **{
        f"unused on some ranks, {name}": {
            **SOMETIMES["unused on some ranks"],
            "strategy": of_stage(stage, zero_optimization=options),
        }
        for name, stage, options in (
            ("overlapping, stage 1", 1, {"overlap_comm": True}),
            ("overlapping, stage 2", 2, {"overlap_comm": True}),
            ("not contiguous", 2, {"contiguous_gradients": False}),
            ("reduced whole", 2, {"reduce_scatter": False}),
            ("on the CPU", 2, on_cpu("optimizer")["zero_optimization"]),
        )
    },
}
CASES |= {f"averaged, stage {stage}": at(stage, {"module": "Averaged"}) for stage in (0, 1, 2)}
CASES |= {f"batch norm, stage {stage}": at(stage, {"module": "Normalized"}) for stage in STAGES}
SCALED = {"fp16": {"initial_scale_power": 10}}
CASES |= {
    f"fp16, stage {stage}": at(stage, {"module": "Regression", **HALF}, **SCALED)
    for stage in STAGES
}
CASES |= {
    f"fp16, {name}, stage {stage}": at(
        stage, {"module": module, "trainer": {**HALF["trainer"], **trainer}}, **SCALED
    )
    for name, module, trainer in (
        ("accumulated, clipped", "Regression", {**THREE, **CLIPPED}),
        ("own backward", "OwnBackward", {}),
    )
    for stage in STAGES
}
CASES |= {
    f"fp16, overflowing, stage {stage}": at(
        stage,
        {"module": "Overflowing", "trainer": HALF["trainer"], "alone": {"left_out": 5}},
        fp16={"initial_scale_power": 20, "hysteresis": 1},
    )
    for stage in STAGES
}
CASES |= {
    f"optimizer on the CPU, stage {stage}": at(stage, CLOSE["adamw"], **on_cpu("optimizer"))
    for stage in (1, 2, 3)
}
CASES |= {
    f"named, stage {stage}": at(
        stage,
        {
            "module": "Regression",
            "arguments": {"optimizer": "none"},
            "alone": {"optimizer": "adam"},
        },
        **ADAM,
    )
    for stage in STAGES
}
CASES |= {
    f"warming up, stage {stage}": at(
        stage, {"module": "WarmingUp", "alone": {"own": True}}, **WARMUP
    )
    for stage in STAGES
}
CASES |= {
    f"checkpointing, DeepSpeed's, stage {stage}": at(
        stage, {"module": "Checkpointed", "arguments": {"by": "DeepSpeed"}}, **ACTIVATIONS
    )
    for stage in STAGES
}
CASES |= {
    "all on the CPU": at(3, CLOSE["adamw"], **on_cpu("optimizer", "param")),
    "an alias, all on the CPU": {**CLOSE["adamw"], "strategy": "deepspeed_stage_3_offload"},
    "gradients seen": at(0, {"module": "Watching", "trainer": THREE}),
    "reading small ones": {"module": "Reading", "strategy": of_stage(3)},
    "initialized late": at(3, {"module": "Initialized"}),
    "again": {"module": "Regression", "strategy": [at(2, {})["strategy"]] * 2},
    "one stage after another": {
        "module": "Tied",
        "arguments": {"optimizer": "sgd"},
        "strategy": [at(stage, {})["strategy"] for stage in (3, 0, 3, 1, 2)],
    },
}

REFUSED = {
    "updates left out": (
        at(2, {"module": "Skipping"}),
        "optimizer_step has made no update, and DeepSpeedStrategy",
    ),
    "no loss": (at(2, {"module": "NoLoss"}), "training_step returning None"),
    "lbfgs": (at(1, {"module": "Regression", "arguments": {"optimizer": "lbfgs"}}), "LBFGS needs"),
    "a layer unused on a rank": (
        {"module": "Differing", "strategy": of_stage(3)},
        "extra.bias, extra.weight took part in this step on some ranks and were unused on others, and at stage 3",
    ),
    "a parameter unused on a rank": (
        at(3, {"module": "Apart"}, zero_optimization={"stage3_param_persistence_threshold": 10}),
        "gain took part in this step on some ranks and were unused on others, and at stage 3",
    ),
    "several optimizers": (at(1, {"module": "Pair"}), "2 optimizers"),
    "gradients divided": (at(1, {"module": "Watching"}), "on_before_optimizer_step needs"),
    "gradients scaled": (
        at(0, {"module": "Watching", "trainer": HALF["trainer"]}),
        "under precision='16-mixed' they are scaled until the update",
    ),
    "listening": (at(3, {"module": "Listening"}), "on_after_backward needs"),
    "own clipping": (at(2, {"module": "OwnClipping"}), "configure_gradient_clipping needs"),
    "optimizer given twice": (
        at(1, {"module": "Regression"}, **ADAM),
        "configure_optimizers returns SGD, and \"optimizer.type\": 'Adam'",
    ),
    "no optimizer": (
        at(1, {"module": "Regression", "arguments": {"optimizer": "none"}}),
        "configure_optimizers returns no optimizer",
    ),
    "scheduler given twice": (
        at(1, {"module": "Scheduled"}, **WARMUP),
        "configure_optimizers returns ExponentialLR, and \"scheduler.type\": 'WarmupLR'",
    ),
    "another batch size": (
        at(1, {"module": "Regression"}, train_micro_batch_size_per_gpu=7),
        '"train_micro_batch_size_per_gpu": 7',
    ),
}
"""What is only known when the processes run, and what they say, each of them."""


@pytest.fixture(scope="module")
def outcomes(shared):
    """What each of two ranks, and one process alone, arrived at in each case."""
    asked = {**CASES, **{name: {**case, "refused": True} for name, (case, _) in REFUSED.items()}}
    both, alone = shared.folder / "both.json", shared.folder / "alone.json"
    both.write_text(json.dumps(asked))
    alone.write_text(json.dumps(CASES))
    processes = [
        shared.start("runs.py", "2", str(both), launcher=TORCHRUN),
        shared.start("runs.py", "1", str(alone)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    ranks = shared.results("runs-2")
    (one,) = shared.results("runs-1", ranks=1)
    return ranks, one


NEAR = {"bf16": 0.02, "fp16": 0.003, "adamw": 1e-5, "batch norm": None}
"""How near a case has to come, by the beginning of its name, where that is not 1e-6; None: nobody else does."""


def tolerance(name):
    return next((near for begin, near in NEAR.items() if name.startswith(begin)), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_both_ranks_arrive_where_one_process_does(outcomes, distance, name):
    ranks, alone = outcomes
    one, near = alone[name], tolerance(name)
    for rank in (outcome[name] for outcome in ranks):
        assert "refused" not in rank, rank
        assert distance(rank["state"], ranks[0][name]["state"]) == 0
        assert rank["steps"] == one["steps"]
        assert rank["metrics"].keys() == one["metrics"].keys()
        if near is not None:
            assert distance(rank["state"], one["state"]) <= near
            for metric, value in rank["metrics"].items():
                assert value == pytest.approx(one["metrics"][metric], abs=near)
        if "fit" in CASES[name].get("do", ["fit"]) and "late" not in name:
            assert distance(rank["initial"], rank["state"]) > 0.03


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_behind(outcomes, name):
    for rank in (outcome[name]["left"] for outcome in outcomes[0]):
        mine, pickled = rank.pop("outputs")
        torch.testing.assert_close(mine, pickled, rtol=0, atol=0)
        assert rank == {
            "marks": [],
            "gradients": [],
            "devices": {"cpu"},
            "dtypes": {torch.float32},
            "containers": {dict},
            "hooks": [],
            "environment": True,
            "connected": False,
        }


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if "predict" in case.get("do", [])]
)
def test_predictions_are_those_of_one_process(outcomes, name):
    ranks, alone = outcomes
    expected = dict(_by_index(alone[name]["predict"]))
    found = dict(pair for rank in ranks for pair in _by_index(rank[name]["predict"]))
    assert found.keys() == expected.keys()
    near = {"bf16": 0.05, "fp16": 0.05}.get(name.split(",")[0], 1e-5)
    for index, output in found.items():
        torch.testing.assert_close(output, expected[index], rtol=0, atol=near)


def _by_index(batches):
    for indices, outputs in batches:
        yield from zip(indices.tolist(), outputs, strict=True)


@pytest.mark.parametrize("stage", STAGES)
def test_updates_that_overflow_are_left_out_and_counted(outcomes, stage):
    name = f"fp16, overflowing, stage {stage}"
    for rank in outcomes[0]:
        scaling = rank[name]["facts"]["scaling"]
        assert (scaling["scale"], scaling["skipped_steps"]) == (2.0**15, 5)
        assert rank[name]["steps"] == 14
        assert rank[name]["facts"]["rates"] == pytest.approx([0.05 * 0.9**n for n in range(1, 15)])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_batch_norm_is_each_rank_s_own_as_at_stage_0(outcomes, distance, stage):
    first = outcomes[0][0]["batch norm, stage 0"]["state"]
    found = outcomes[0][0][f"batch norm, stage {stage}"]["state"]
    assert distance(found, first) <= 1e-6
    assert found["norm.num_batches_tracked"] == 14


def test_evaluation_in_16_bits_leaves_weights_as_they_were(outcomes):
    # What fits in fp32 is more than what bf16 has room for.
    for stage in STAGES:
        for tensor in outcomes[0][0][f"bf16, stage {stage}"]["state"].values():
            assert not torch.equal(tensor, tensor.bfloat16().float())


@pytest.mark.parametrize("stage", STAGES)
def test_rates_are_those_of_the_schedule(outcomes, stage):
    for name in ("scheduled by step", "scheduled by epoch", "warming up"):
        rates = [o[f"{name}, stage {stage}"]["facts"]["rates"] for o in (*outcomes[0], outcomes[1])]
        assert len(set(rates[0])) > 1
        assert rates[0] == rates[1] == pytest.approx(rates[2])


def test_stage_0_shows_gradients_that_are_averaged(outcomes):
    ranks, alone = outcomes
    expected = alone["gradients seen"]["facts"]["gradients"]
    for rank in ranks:
        found = rank["gradients seen"]["facts"]["gradients"]
        assert len(found) == len(expected) == 14
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_layers_are_made_divided(outcomes):
    for rank in outcomes[0]:
        assert rank["made late, stage 3"]["facts"]["shapes"] == [(0,)] * 4
        assert rank["made late, stage 2"]["facts"]["shapes"][0] == (16, 8)


@pytest.mark.parametrize("stage", STAGES)
def test_whole_weights_can_be_read(outcomes, stage):
    for rank in outcomes[0]:
        facts = rank[f"whole weights, stage {stage}"]["facts"]
        whole = rank[f"whole weights, stage {stage}"]["state"].values()
        torch.testing.assert_close(facts["whole"], list(whole), rtol=0, atol=0)
        assert (facts["after"] == [(0,)] * 4) == (stage == 3)


def test_small_weights_can_be_read_within_a_step(outcomes):
    for rank in outcomes[0]:
        assert rank["reading small ones"]["facts"]["whole"] == [(16, 8), (16,), (4, 16), (4,)]


def test_one_computes_activations_twice(outcomes):
    for stage in STAGES:
        for by in ("torch's", "DeepSpeed's"):
            facts = outcomes[0][0][f"checkpointing, {by}, stage {stage}"]["facts"]
            assert facts["computed"] == 2 * 14


def test_the_module_s_own_backward_is_called(outcomes):
    for stage in STAGES:
        # Three windows an epoch of seven batches: four epochs, and two windows.
        assert outcomes[0][0][f"own backward, stage {stage}"]["facts"]["backwards"] == 4 * 7 + 2 * 3


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_all_ranks_alike(outcomes, name):
    message = REFUSED[name][1]
    for rank in outcomes[0]:
        assert message in rank[name]["refused"]
        assert "\n" not in rank[name]["refused"]
        assert not rank[name]["connected"]


@pytest.mark.timeout(320)
def test_deepspeed_s_own_adam(programs, distance):
    # Compiled when it is first used, which takes two minutes.
    cases = programs.folder / "cases.json"
    case = {"module": "Regression", "arguments": {"optimizer": "cpu adam"}}
    asked = {f"stage {n}": at(n, case, **on_cpu("optimizer")) for n in (1, 3)}
    cases.write_text(json.dumps(asked))
    processes = [
        programs.start("runs.py", "2", str(cases), launcher=TORCHRUN),
        programs.start("runs.py", "1", str(cases)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    (alone,) = programs.results("runs-1", ranks=1)
    for rank in programs.results("runs-2"):
        for name in asked:
            assert rank[name]["optimizer"] == ["DeepSpeedCPUAdam"]
            assert distance(rank[name]["state"], alone[name]["state"]) <= 1e-5


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


def refusal(module=None, config=None, **arguments):
    """What `fit` says; the launcher would run the tests themselves again."""
    from torchrelay_deepspeed import DeepSpeedStrategy

    strategy = DeepSpeedStrategy(config or {"zero_optimization": {"stage": 2}})
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    with pytest.raises((ConfigurationError, UnsupportedError)) as raised:
        Trainer(strategy=strategy, accelerator="cpu", devices=2, **quiet, **arguments).fit(
            module or Module(), [torch.ones(1, 2)]
        )
    assert "\n" not in str(raised.value)
    assert not torch.distributed.is_initialized()
    return str(raised.value)


@pytest.mark.parametrize(
    ("config", "arguments", "parts"),
    [
        (
            {"gradient_accumulation_steps": 4},
            {"accumulate_grad_batches": 2},
            ['"gradient_accumulation_steps": 4', "accumulate_grad_batches=2"],
        ),
        (
            {"gradient_clipping": 0.5},
            {"gradient_clip_val": 0.1},
            ['"gradient_clipping": 0.5', "gradient_clip_val=0.1"],
        ),
        (
            {"bf16": {"enabled": True}},
            {"precision": "32-true"},
            ['"bf16.enabled": True', "precision='32-true'"],
        ),
        ({}, {"precision": "64-true"}, ["64-true", "32-true, bf16-mixed, 16-mixed"]),
        ({}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, ["clips by the norm"]),
        ({}, {"sync_batchnorm": True}, ["SyncBatchNorm runs on GPUs only"]),
    ],
    ids=["accumulation", "clipping", "precision", "no precision", "by value", "batch norm"],
)
def test_what_is_refused_before_any_process_starts(config, arguments, parts):
    message = refusal(config={"zero_optimization": {"stage": 1}, **config}, **arguments)
    for part in parts:
        assert part in message


def test_manual_optimization_is_refused():
    assert "its engine makes the update" in refusal(ByHand())


@pytest.mark.skipif(FP16, reason="this CPU computes in fp16")
def test_fp16_is_refused_where_the_cpu_lacks_it():
    assert "precision='16-mixed': DeepSpeed computes in fp16 only where" in refusal(
        precision="16-mixed"
    )


def test_a_missing_compiler_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    message = refusal()
    assert "DeepSpeed compiles deepspeed_shm_comm when it is first used" in message
    assert "apt-get install g++" in message
