"""State on NVMe: trained, evaluated, saved and resumed as in memory; and a disk on which nothing stays."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

from torchrelay_deepspeed import vendor
from torchrelay_deepspeed.raw import RawConfig
from torchrelay_deepspeed.refused import libaio
from torchrelay_deepspeed.swap_folders import PREFIX
from torchrelay_deepspeed.user_config import VARIABLE

LACK = libaio()
LIMIT = 1200
"""Seconds for all: six minutes compile three extensions on two idle cores, the cases take less than two."""

pytestmark = [
    pytest.mark.skipif(LACK is not None, reason=f"needs libaio: {LACK}"),
    pytest.mark.timeout(LIMIT + 60),
]

TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
)

MIB = 2**20

# By default the first gigabyte of parameters stays in CPU memory, and buffers have room for another two.
ON_DISK = {"device": "nvme", "buffer_size": MIB, "max_in_cpu": 0}
EVERYTHING = {"offload_optimizer": {"device": "nvme"}, "offload_param": ON_DISK}
PIPELINED = {"device": "nvme", "pipeline_read": True, "pipeline_write": True}
WINDOWS = {"trainer": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}}
BFLOAT = {"trainer": {"precision": "bf16-mixed"}}
SGD = {"arguments": {"optimizer": "sgd"}}
EVALUATED = {"do": ["fit", "validate", "test", "predict"]}


def kept(case=None, stage=3, **zero):
    """A case at a stage, with all that is divided really divided."""
    small = {"stage": stage, "stage3_param_persistence_threshold": 0, **zero}
    return {"module": "Wide", **(case or {}), "strategy": {"config": {"zero_optimization": small}}}


def in_memory(case=None):
    return kept(case)


IN_MEMORY = {
    "adamw in memory": in_memory(EVALUATED),
    "sgd in memory": in_memory({**SGD, **WINDOWS}),
    "bf16 in memory": in_memory(BFLOAT),
    "frozen in memory": in_memory({"arguments": {"frozen": True}}),
    "part loaded in memory": in_memory({"module": "PartLoaded"}),
    "stage 2": kept({"save": "stage-2"}, stage=2),
}

ON_NVME = {
    "optimizer alone": (kept(offload_optimizer={"device": "nvme"}), "adamw in memory"),
    "parameters alone": (kept(offload_param=ON_DISK), "adamw in memory"),
    "everything": (kept({**EVALUATED, "save": "nvme"}, **EVERYTHING), "adamw in memory"),
    "resumed": (kept({"resume": "nvme"}, **EVERYTHING), "adamw in memory"),
    "resumed from stage 2": (kept({"resume": "stage-2"}, **EVERYTHING), "stage 2"),
    "in groups": (
        kept(**{**EVERYTHING, "offload_optimizer": PIPELINED}, sub_group_size=300_000),
        "adamw in memory",
    ),
    "windows, clipped": (kept({**SGD, **WINDOWS}, **EVERYTHING), "sgd in memory"),
    "bf16": (kept(BFLOAT, **EVERYTHING), "bf16 in memory"),
    "made late": (kept({"arguments": {"late": True}}, **EVERYTHING), "adamw in memory"),
    "frozen": (kept({"arguments": {"frozen": True}}, **EVERYTHING), "frozen in memory"),
    "part loaded": (kept({"module": "PartLoaded"}, **EVERYTHING), "part loaded in memory"),
    "an alias": (
        {"module": "Wide", "strategy": "deepspeed_stage_3_offload_nvme"},
        "adamw in memory",
    ),
}
"""What is kept on NVMe, and the case that does the same in memory."""

ELSEWHERE = {"stage 2 from NVMe": kept({"resume": "nvme"}, stage=2)}


def on(disk: str, case: dict) -> dict:
    """A case whose configuration names the folder."""
    if isinstance(case["strategy"], str):
        return case
    made = json.loads(json.dumps(case))
    for section in made["strategy"]["config"]["zero_optimization"].values():
        if isinstance(section, dict):
            section["nvme_path"] = disk
    return made


@pytest.fixture(scope="module")
def disk(shared):
    """The folder that is offloaded to, with something in it that is none of this run's."""
    made = shared.folder / "disk"
    (made / "zero_stage_3").mkdir(parents=True)
    (made / "zero_stage_3" / "of somebody else").write_text("mine")
    return made


@pytest.fixture(scope="module")
def outcomes(shared, disk):
    """What each of two ranks, and one process alone, arrived at in each case."""
    cases = {**IN_MEMORY, **{name: case for name, (case, _) in ON_NVME.items()}, **ELSEWHERE}
    both, alone, file = (shared.folder / f"{name}.json" for name in ("both", "alone", "ds"))
    both.write_text(json.dumps({name: on(str(disk), case) for name, case in cases.items()}))
    one = ["adamw in memory", "sgd in memory"]
    alone.write_text(json.dumps({name: cases[name] for name in one}))
    zero = {name: {"nvme_path": str(disk), **each} for name, each in EVERYTHING.items()}
    small = {"stage3_param_persistence_threshold": 0}
    file.write_text(json.dumps({"zero_optimization": {**zero, **small}}))
    named = {VARIABLE: str(file), "DISK": str(disk)}
    processes = [
        shared.start("runs.py", "2", str(both), launcher=TORCHRUN, **named),
        shared.start("runs.py", "1", str(alone)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    return shared.results("runs-2"), shared.results("runs-1", ranks=1)[0]


@pytest.mark.parametrize("name", ON_NVME)
def test_it_is_trained_as_in_memory(outcomes, distance, name):
    for rank in outcomes[0]:
        found, expected = rank[name], rank[ON_NVME[name][1]]
        # The norm by which gradients are clipped is a sum in another order.
        near = 1e-6 if "clipped" in name else 0
        assert distance(found["state"], expected["state"]) <= near
        assert found["steps"] == expected["steps"]


def test_in_memory_it_is_trained_as_by_one_process(outcomes, distance):
    ranks, alone = outcomes
    for rank in ranks:
        # AdamW makes as much of a gradient that is next to nothing as of any other.
        for name, near in {"adamw in memory": 1e-4, "sgd in memory": 1e-6}.items():
            assert distance(rank[name]["state"], alone[name]["state"]) <= near


def test_evaluation_is_that_of_one_process(outcomes):
    ranks, alone = outcomes
    expected = alone["adamw in memory"]
    for rank in ranks:
        for stage, name in {"validate": "val_loss", "test": "test_loss"}.items():
            ((found,), (same,)) = rank["everything"][stage], expected[stage]
            assert found[name] == pytest.approx(same[name], abs=1e-4)
        for batch, same in zip(
            rank["everything"]["predict"], rank["adamw in memory"]["predict"], strict=True
        ):
            assert batch[0].equal(same[0])
            assert batch[1].equal(same[1])


def test_another_stage_goes_on_with_a_checkpoint_of_nvme(outcomes, distance):
    for rank in outcomes[0]:
        state = rank["stage 2 from NVMe"]["state"]
        assert distance(state, rank["stage 2"]["state"]) <= 1e-4


@pytest.mark.parametrize("name", ON_NVME)
def test_it_was_on_the_disk_in_a_folder_of_each_rank_s_own(outcomes, disk, name):
    sizes: dict[str, dict[str, int]] = {}
    for path, size in outcomes[0][0][name]["facts"]["disk"].items():
        own, *_, file = Path(path).relative_to(disk).parts
        sizes.setdefault(own, {})[file] = size
    assert len(sizes) == 2
    for own, files in sizes.items():
        assert own.startswith(PREFIX)
        parameters = [size for file, size in files.items() if file.endswith("_param.tensor.swp")]
        half = MIB if name == "bf16" else 2 * MIB
        assert parameters == ([] if name == "optimizer alone" else [half])
        moments = [size for file, size in files.items() if file.startswith("exp_avg")]
        if name not in ("parameters alone", "windows, clipped", "frozen"):
            assert len(moments) == 2
            assert min(moments) >= 2 * MIB


def test_nothing_stays_on_the_disk_but_what_was_there(outcomes, disk):
    found = [path.relative_to(disk) for path in disk.rglob("*")]
    assert sorted(map(str, found)) == ["zero_stage_3", "zero_stage_3/of somebody else"]


def test_what_is_compiled_for_it_is_what_is_said(outcomes):
    # Beside it, each has been built, and so would need no compiler in a next run.
    zero = {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/disk"}}
    built = {path.stem for path in Path(_extensions()).rglob("*.so")}
    assert set(vendor.compiles(RawConfig({"zero_optimization": zero}, ""), "cpu")) <= built


def _extensions() -> str:
    from torchrelay.plugin.checks import extensions_folder

    return os.fspath(extensions_folder())
