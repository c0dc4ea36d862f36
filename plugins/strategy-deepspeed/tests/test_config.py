"""The configuration as dataclasses, and what no configuration may ask for."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay_deepspeed import (
    ActivationCheckpointing,
    AsyncIO,
    DeepSpeedConfig,
    LossScaling,
    Named,
    Offload,
    OptimizerOffload,
    ParameterOffload,
)
from torchrelay_deepspeed.keys import KNOWN
from torchrelay_deepspeed.raw import RawConfig, merged, without_auto
from torchrelay_deepspeed.rules import check

SECTIONS = {
    DeepSpeedConfig: "",
    OptimizerOffload: "zero_optimization.offload_optimizer",
    ParameterOffload: "zero_optimization.offload_param",
    AsyncIO: "aio",
    ActivationCheckpointing: "activation_checkpointing",
    LossScaling: "fp16",
    Named: "optimizer",
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_field_is_a_key_of_deepspeed_s(kind):
    for each in fields(kind):
        if each.name == "extra":
            continue
        path = ".".join(filter(None, [SECTIONS[kind], each.metadata["key"]]))
        section, _, key = path.rpartition(".")
        assert key in KNOWN[section], path


def test_it_reads_as_deepspeed_writes_it():
    made = DeepSpeedConfig(
        stage=3,
        offload_optimizer=OptimizerOffload(device="nvme", path=Path("/disk"), pipeline_read=True),
        offload_parameters=ParameterOffload(pin_memory=False, max_in_cpu=1e6),
        async_io=AsyncIO(queue_depth=4),
        reduce_bucket_size=5e7,
        prefetch_bucket_size=10,
        overlap_comm=False,
        communication_data_type="bf16",
        loss_scaling=LossScaling(loss_scale=128.0),
        activation_checkpointing=ActivationCheckpointing(partition_activations=True),
        optimizer=Named("AdamW", {"lr": 0.1, "betas": (0.9, 0.99)}),
        extra={"zero_optimization": {"memory_efficient_linear": False}, "steps_per_print": 10},
    )
    assert made.as_dict() == {
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "nvme", "nvme_path": "/disk", "pipeline_read": True},
            "offload_param": {"device": "cpu", "pin_memory": False, "max_in_cpu": 1_000_000},
            "reduce_bucket_size": 50_000_000,
            "stage3_prefetch_bucket_size": 10,
            "overlap_comm": False,
            "memory_efficient_linear": False,
        },
        "aio": {"queue_depth": 4},
        "communication_data_type": "bf16",
        "fp16": {"loss_scale": 128.0},
        "activation_checkpointing": {"partition_activations": True},
        "optimizer": {"type": "AdamW", "params": {"lr": 0.1, "betas": [0.9, 0.99]}},
        "steps_per_print": 10,
    }


def test_it_is_frozen_and_can_be_sent_to_other_processes():
    made = DeepSpeedConfig(stage=1, extra={"dump_state": True})
    with pytest.raises(FrozenInstanceError):
        made.stage = 2
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepSpeedConfig(stage=4), "is 0, 1, 2 or 3, not 4"),
        (lambda: DeepSpeedConfig(stage=True), "is 0, 1, 2 or 3, not True"),
        (
            lambda: DeepSpeedConfig(stage=2, offload_parameters=Offload()),
            "at stage 3 alone, and this is stage 2, where DeepSpeed would not do it, and not say",
        ),
        (lambda: DeepSpeedConfig(stage=0, offload_optimizer=Offload()), "from stage 1 on"),
        (
            lambda: DeepSpeedConfig(stage=3, offload_optimizer=Offload(device="nvme")),
            r'"offload_optimizer" goes to "nvme" without "nvme_path"',
        ),
        (
            lambda: DeepSpeedConfig(offload_optimizer=Offload(device="nvme", path="/disk")),
            r'"nvme" at stage 3 alone, and this is stage 2, where DeepSpeed would use CPU memory',
        ),
        (
            lambda: DeepSpeedConfig(
                stage=3,
                offload_optimizer=OptimizerOffload(device="nvme", path="/disk", fast_init=True),
                offload_parameters=Offload(device="nvme", path="/disk"),
            ),
            "DeepSpeed would begin with other weights than the model's, and not say so; take it out",
        ),
        (lambda: Offload(device="disk"), r"Offload: device='disk' must be 'cpu' or 'nvme'"),
        (
            lambda: DeepSpeedConfig(stage=3, offload_parameters=OptimizerOffload(ratio=0.5)),
            r'no key "zero_optimization.offload_param.ratio"',
        ),
        (lambda: DeepSpeedConfig(reduce_bucket_size="5e8"), "='5e8' must be a whole number from 0"),
        (lambda: DeepSpeedConfig(reduce_bucket_size=0.5), "=0.5 must be a whole number from 0"),
        (lambda: DeepSpeedConfig(overlap_comm="yes"), "must be True or False"),
        (lambda: LossScaling(loss_scale=-1), "loss_scale=-1 must be a number from 0"),
        (
            lambda: DeepSpeedConfig(extra={"zero_optimization": {"stage": 3}}),
            r'extra has "zero_optimization.stage", and so has "zero_optimization.stage": 2 in a field',
        ),
        (
            lambda: DeepSpeedConfig(extra={"zero_optimisation": {}}),
            r"DeepSpeedConfig: DeepSpeed has no key \"zero_optimisation\", did you mean 'zero_opt",
        ),
        (
            lambda: DeepSpeedConfig(optimizer=Named("Adam", {"max_grad_norm": 1.0})),
            r"take it out, and write Trainer\(gradient_clip_val=",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_written(make, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"managed_gradient_accumulation": False}, "stays on under torchrelay"),
        ({"compile": {"deepcompile": True}}, "use torch.compile"),
        ({"torch_autocast": {"enabled": True}}, r"write Trainer\(precision=\"bf16-mixed\"\)"),
        ({"bf16": {}, "bfloat16": {}}, "are both there"),
        ({"optimizer": {"params": {}}}, '"optimizer" has no "type"'),
        ({"optimizer": {"type": "Adam", "params": 3}}, r"\"optimizer.params\" has to be a section"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}}},
            r'"scheduler.params.warmup_max_lr" is "auto", and nobody fills it in',
        ),
        ({"zero_optimization": True}, r'"zero_optimization": True has to be a section of its own'),
        ({"gradient_clipping": "a lot"}, r'"gradient_clipping" is a number from 0, or "auto"'),
        ({"train_batch_size": 0}, r'"train_batch_size" is a number from 1'),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "disk"}}},
            r"goes to the device \"cpu\" or \"nvme\", not to 'disk'",
        ),
    ],
)
def test_what_cannot_be_is_refused_however_it_is_written(values: dict[str, Any], message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        check(RawConfig(values, "ds.json"))
    assert str(caught.value).startswith("ds.json: ")
    assert "\n" not in str(caught.value)


def test_auto_and_none_leave_it_to_deepspeed():
    zero = {"stage": "auto", "offload_param": {"device": "none"}, "overlap_comm": "auto"}
    config = check(RawConfig({"zero_optimization": zero, "gradient_clipping": "auto"}, "ds.json"))
    assert config.stage == 0
    assert config.offload("param") == {}
    assert config.get("gradient_clipping") is None
    assert without_auto(config.values) == {
        "zero_optimization": {"offload_param": {"device": "none"}}
    }


def test_sections_are_merged_and_nothing_is_shared():
    base, over = {"a": {"b": 1, "c": [1]}}, {"a": {"b": 2}, "d": {}}
    both = merged(base, over)
    assert both == {"a": {"b": 2, "c": [1]}, "d": {}}
    both["a"]["c"].append(2)
    assert base == {"a": {"b": 1, "c": [1]}}
