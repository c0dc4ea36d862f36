"""What the user's configuration and the Trainer's arguments come to, as DeepSpeed itself reads it."""

from __future__ import annotations

from typing import Any

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.strategies.plan import Clip, Plan
from torchrelay_deepspeed import DeepSpeedConfig, Named, Offload
from torchrelay_deepspeed.raw import RawConfig
from torchrelay_deepspeed.rules import check
from torchrelay_deepspeed.settled import settle

PLAIN: dict[str, Any] = {"plan": Plan(), "precision": "32-true"}


def own(**values: Any) -> RawConfig:
    return check(RawConfig(values, "ds.json"))


def fields(**arguments: Any) -> RawConfig:
    return RawConfig(DeepSpeedConfig(**arguments).as_dict(), "DeepSpeedConfig")


def test_what_the_trainer_decides_is_written_whatever_the_user_left_open():
    assert settle(fields(stage=1), **PLAIN) == {
        "zero_optimization": {"stage": 1},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_deepspeed_reads_what_was_meant(stage, precision):
    from deepspeed.runtime.config import DeepSpeedConfig as Theirs

    plan = Plan(accumulate=4, loss_divisor=4, clip=Clip(0.5))
    read = Theirs(settle(fields(stage=stage), plan=plan, precision=precision, batch_size=3))
    assert read.zero_optimization_stage == stage
    assert read.gradient_clipping == 0.5
    assert (read.gradient_accumulation_steps, read.managed_gradient_accumulation) == (1, True)
    assert read.train_micro_batch_size_per_gpu == 3
    assert read.bfloat16_config.enabled == (precision == "bf16-mixed")
    assert read.float16_config.enabled == (precision == "16-mixed")


def test_no_clipping_is_none_to_deepspeed_too():
    from deepspeed.runtime.config import DeepSpeedConfig as Theirs
    from deepspeed.runtime.constants import GRADIENT_CLIPPING_DEFAULT

    assert GRADIENT_CLIPPING_DEFAULT == 1.0
    assert Theirs(settle(fields(), **PLAIN)).gradient_clipping == 0.0


def test_auto_everywhere_is_the_trainer_s():
    everything = own(
        bf16={"enabled": "auto"},
        fp16={"enabled": "auto", "loss_scale": 0, "initial_scale_power": 4},
        gradient_accumulation_steps="auto",
        gradient_clipping="auto",
        train_batch_size="auto",
        train_micro_batch_size_per_gpu="auto",
        zero_optimization={"stage": 2, "reduce_bucket_size": "auto"},
    )
    plan = Plan(accumulate=2, loss_divisor=2, clip=Clip(0.5))
    made = settle(everything, plan=plan, precision="16-mixed", world_size=2, batch_size=8)
    assert made["fp16"] == {"enabled": True, "loss_scale": 0, "initial_scale_power": 4}
    assert made["bf16"] == {"enabled": False}
    assert made["gradient_clipping"] == 0.5
    assert made["train_micro_batch_size_per_gpu"] == 8
    assert "train_batch_size" not in made
    assert made["zero_optimization"] == {"stage": 2}


def test_equal_values_are_fine():
    same = own(
        bf16={"enabled": True, "check_grad_overflow": False},
        fp16={"enabled": False},
        gradient_accumulation_steps=2,
        gradient_clipping=0.5,
        train_batch_size=32,
        train_micro_batch_size_per_gpu=8,
    )
    plan = Plan(accumulate=2, loss_divisor=2, clip=Clip(0.5))
    made = settle(same, plan=plan, precision="bf16-mixed", world_size=2, batch_size=8)
    assert made["bf16"] == {"enabled": True, "check_grad_overflow": False}
    assert made["gradient_accumulation_steps"] == 1


def test_clipping_is_taken_where_the_trainer_was_not_asked_for_any():
    assert settle(own(gradient_clipping=0.5), **PLAIN)["gradient_clipping"] == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"gradient_accumulation_steps": 4},
            r'"gradient_accumulation_steps": 4 in ds.json contradicts accumulate_grad_batches=2 of '
            r"the Trainer; take it out there, or write Trainer\(accumulate_grad_batches=4\)",
        ),
        (
            {"gradient_clipping": 1.0},
            r'"gradient_clipping": 1.0 in ds.json contradicts gradient_clip_val=0.5 of the Trainer',
        ),
        ({"gradient_clipping": 0}, r"write Trainer\(gradient_clip_val=None\)"),
        (
            {"fp16": {"enabled": True}},
            r'"fp16.enabled": True in ds.json contradicts precision=\'bf16-mixed\' of the Trainer; '
            r"take it out there, or write Trainer\(precision='16-mixed'\)",
        ),
        ({"bf16": {"enabled": False}}, r'"bf16.enabled": False .*Trainer\(precision=\'32-true\'\)'),
        ({"bfloat16": {"enabled": False}}, r'"bfloat16.enabled": False in ds.json contradicts'),
        (
            {"data_types": {"param_dtype": "fp32"}},
            r"\"data_types.param_dtype\": 'fp32' .*'32-true'",
        ),
        (
            {"train_micro_batch_size_per_gpu": 4},
            r'"train_micro_batch_size_per_gpu": 4 in ds.json contradicts batch_size=8 of the DataL',
        ),
        (
            {"train_batch_size": 16},
            r'"train_batch_size": 16 in ds.json contradicts 8 samples a batch on each of 2 ranks '
            r"with accumulate_grad_batches=2 of the Trainer, 32 an update",
        ),
    ],
)
def test_a_contradiction_names_both_values_and_both_places(values, message):
    plan = Plan(accumulate=2, loss_divisor=2, clip=Clip(0.5))
    with pytest.raises(ConfigurationError, match=message) as caught:
        settle(own(**values), plan=plan, precision="bf16-mixed", world_size=2, batch_size=8)
    assert "\n" not in str(caught.value)


def test_accumulation_and_precision_of_the_file_alone_are_contradictions_too():
    with pytest.raises(ConfigurationError, match=r"contradicts accumulate_grad_batches=1 of the T"):
        settle(own(gradient_accumulation_steps=4), **PLAIN)
    with pytest.raises(ConfigurationError, match=r"contradicts precision='32-true' of the Trainer"):
        settle(own(bf16={"enabled": True}), **PLAIN)


def test_the_older_name_of_bf16_is_understood():
    made = settle(
        own(bfloat16={"enabled": True, "check_grad_overflow": False}),
        plan=Plan(),
        precision="bf16-mixed",
    )
    assert made["bf16"] == {"enabled": True, "check_grad_overflow": False}
    assert "bfloat16" not in made


def test_the_batch_size_is_found_where_it_can_be():
    total = own(train_batch_size=64)
    plan = Plan(accumulate=4, loss_divisor=4)
    made = settle(total, plan=plan, precision="32-true", world_size=2)
    assert made["train_micro_batch_size_per_gpu"] == 8
    with pytest.raises(
        ConfigurationError, match=r"7 samples a batch on each of 3 ranks .* 63 an u"
    ):
        settle(total, plan=Plan(accumulate=3), precision="32-true", world_size=3)


def test_a_precision_that_deepspeed_does_not_have():
    with pytest.raises(
        ConfigurationError, match=r"'64-true' is none of DeepSpeed's: 32-true, bf16"
    ):
        settle(fields(), plan=Plan(), precision="64-true")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "adamw"])
def test_adam_by_name_is_torch_s_unless_it_is_offloaded(name):
    adam = Named(name, {"lr": 0.1})
    made = settle(fields(optimizer=adam), **PLAIN)
    params = {"lr": 0.1, "torch_adam": True, "weight_decay": 0.0}
    assert made["optimizer"] == {"type": name, "params": params}
    made = settle(fields(optimizer=adam, offload_optimizer=Offload()), **PLAIN)
    assert made["optimizer"] == {"type": name, "params": {"lr": 0.1}}


def test_what_the_user_says_of_optimizers_is_kept():
    fused = Named("Adam", {"torch_adam": False})
    said = {"zero_allow_untested_optimizer": False, "zero_force_ds_cpu_optimizer": True}
    made = settle(fields(optimizer=fused, extra=said), **PLAIN)
    assert made["optimizer"]["params"] == {"torch_adam": False}
    assert not made["zero_allow_untested_optimizer"]
    assert made["zero_force_ds_cpu_optimizer"]


def test_the_user_s_configuration_stays_as_it_is():
    config = own(optimizer={"type": "Adam", "params": {}}, zero_optimization={"stage": 1})
    made = settle(config, **PLAIN)
    made["zero_optimization"]["stage"] = 3
    assert config.values == {
        "optimizer": {"type": "Adam", "params": {}},
        "zero_optimization": {"stage": 1},
    }
