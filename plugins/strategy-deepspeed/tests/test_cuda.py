"""One GPU: stages 2 and 3, bf16, offload."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("needs DeepSpeed", allow_module_level=True)

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(600)]

ONE = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "1"),
)
OFFLOADED = {f"offload_{what}": {"device": "cpu"} for what in ("optimizer", "param")}


def at(stage, precision="32-true", **zero):
    whole = {"stage": stage, "stage3_param_persistence_threshold": 0, **zero}
    return {
        "module": "Regression",
        "arguments": {"optimizer": "adamw"},
        "strategy": {"config": {"zero_optimization": whole}},
        "trainer": {"accelerator": "cuda", "precision": precision, "gradient_clip_val": 0.5},
        "do": ["fit", "validate", "predict"],
    }


CASES = {
    "stage 2": at(2),
    "stage 3": at(3),
    "stage 2, bf16": at(2, "bf16-mixed"),
    "stage 3, bf16": at(3, "bf16-mixed"),
    "stage 3, fp16": at(3, "16-mixed"),
    "stage 2, offloaded": at(2, offload_optimizer=OFFLOADED["offload_optimizer"]),
    "stage 3, offloaded": at(3, **OFFLOADED),
}


def test_one_gpu_arrives_where_the_cpu_does(programs, distance):
    cases = programs.folder / "cases.json"
    cases.write_text(json.dumps(CASES))
    processes = [
        programs.start("runs.py", "1", str(cases), "engine", launcher=ONE),
        programs.start("runs.py", "1", str(cases)),
    ]
    for process in processes:
        out, err = process.communicate(timeout=580)
        assert process.returncode == 0, out[-3000:] + err[-6000:]
    (alone,) = programs.results("runs-1", ranks=1)
    (found,) = programs.results("runs-engine", ranks=1)
    for name, outcome in found.items():
        near = 0.02 if "16" in name else 1e-4
        assert distance(outcome["state"], alone[name]["state"]) <= near, name
        assert outcome["left"]["devices"] == {"cpu"}
        assert outcome["left"]["marks"] == []
