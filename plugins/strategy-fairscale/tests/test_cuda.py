"""On GPUs, where FairScale is at home: sharded and fully sharded, without any test equipment."""

from __future__ import annotations

import json
import sys

import pytest
import torch

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(600)]

GPUS = torch.cuda.device_count()
TWO = pytest.param(2, marks=pytest.mark.skipif(GPUS < 2, reason="needs two GPUs"))

UNITS = {"min_num_params": 50, "on_gpu": True}
THREE = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}


def case(strategy, precision="32-true", **more):
    return {
        "module": "Regression",
        "arguments": {"optimizer": "adamw"},
        "strategy": strategy,
        "trainer": {"accelerator": "cuda", "precision": precision, **THREE},
        "do": ["fit", "validate", "predict"],
        **more,
    }


CASES = {
    "sharded": case("ddp_sharded"),
    "sharded, bf16": case("ddp_sharded", "bf16-mixed"),
    "sharded, fp16": case("ddp_sharded", "16-mixed"),
    "sharded, broadcast in fp16": case({"sharded": {"broadcast_fp16": True}}, "16-mixed"),
    "fully, an alias": case("ddp_fully_sharded"),
    "units": case(UNITS),
    "units, not flattened": case({**UNITS, "flatten_parameters": False}),
    "units, bf16": case(UNITS, "bf16-mixed"),
    "units, fp16": case(UNITS, "16-mixed"),
    "units, fp16, reduced in fp32": case({**UNITS, "fp32_reduce_scatter": True}, "16-mixed"),
    "units, offloaded": case({**UNITS, "cpu_offload": True}),
    "units, gradients offloaded": case(
        {**UNITS, "cpu_offload": True, "bucket_cap_mb": 0}, "bf16-mixed"
    ),
    "made late": case({"on_gpu": True}, module="MadeLate", arguments={"inner": "wrap checkpoint"}),
}


@pytest.mark.parametrize("devices", [1, TWO])
def test_gpus_arrive_where_one_cpu_process_does(programs, distance, devices):
    cases = programs.folder / "cases.json"
    cases.write_text(json.dumps(CASES))
    launcher = (
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(devices)),
    )
    processes = [
        programs.start("runs.py", str(devices), str(cases), "parallel", launcher=launcher),
        programs.start("runs.py", "1", str(cases)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=580)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    (alone,) = programs.results("runs-1", ranks=1)
    for rank in programs.results("runs-parallel", ranks=devices):
        for name, outcome in rank.items():
            near = 0.02 if "16" in name else 1e-4
            assert distance(outcome["state"], alone[name]["state"]) <= near, name
            assert outcome["left"]["devices"] == {"cpu"}
            assert outcome["left"]["wrappers"] == []
