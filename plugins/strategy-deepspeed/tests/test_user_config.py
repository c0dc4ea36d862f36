"""A user's own configuration of DeepSpeed: dict, file, environment; and the keys that DeepSpeed really knows."""

from __future__ import annotations

import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from torchrelay.errors import ConfigurationError, one_line
from torchrelay_deepspeed import DeepSpeedConfig, keys
from torchrelay_deepspeed.presets import PRESETS
from torchrelay_deepspeed.user_config import VARIABLE, read


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def write(tmp_path):
    """Writes a file and gives its path."""

    def writer(content: Any) -> Path:
        path = tmp_path / "ds.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return writer


def test_every_form_comes_to_the_same(write, monkeypatch):
    values = {"zero_optimization": {"stage": 1}}
    path = write(values)
    for given in (values, path, str(path), DeepSpeedConfig(stage=1)):
        assert read(given).values == values
    assert read(path).where == str(path)
    monkeypatch.setenv(VARIABLE, str(path))
    assert read().values == values
    assert read().where == f"{path} ({VARIABLE})"


def test_deepspeed_s_own_configuration_without_a_stage_is_stage_0():
    assert read({}).stage == 0


def test_what_is_given_is_neither_changed_nor_shared():
    values = {"zero_optimization": {"stage": 1}}
    read(values).values["zero_optimization"]["stage"] = 3
    assert values == {"zero_optimization": {"stage": 1}}


def test_a_configuration_of_the_program_s_own_passes_over_the_environment(write, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(write({"zero_optimization": {"stage": 3}})))
    assert read(DeepSpeedConfig(stage=1)).stage == 1
    assert read({"zero_optimization": {"stage": 1}}).stage == 1


def test_an_alias_is_joined_with_the_file(write, monkeypatch):
    zero = {"offload_param": {"nvme_path": "/disk"}, "offload_optimizer": {"nvme_path": "/disk"}}
    path = write({"zero_optimization": {**zero, "sub_group_size": 7}, "steps_per_print": 3})
    monkeypatch.setenv(VARIABLE, str(path))
    config = read(PRESETS["deepspeed_stage_3_offload_nvme"])
    assert config.stage == 3
    assert config.offload("param") == {"device": "nvme", "nvme_path": "/disk"}
    assert config.get("zero_optimization.sub_group_size") == 7
    assert config.get("steps_per_print") == 3
    assert "deepspeed_stage_3_offload_nvme" in config.where
    assert str(path) in config.where


def test_an_alias_that_the_file_contradicts_is_refused_by_both_names(write, monkeypatch):
    path = write({"zero_optimization": {"stage": 2}})
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(ConfigurationError) as caught:
        read(PRESETS["deepspeed_stage_3"])
    text = str(caught.value)
    assert "strategy='deepspeed_stage_3' stands for \"zero_optimization.stage\": 3" in text
    assert f'but "zero_optimization.stage": 2 in {path} ({VARIABLE})' in text
    assert read(PRESETS["deepspeed_stage_2"]).stage == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"zero_optimization": {"stage": 2},}', r"is no JSON: line 1, column 36: \w+"),
        ('{\n  "bf16": {"enabled": True}\n}', r"is no JSON: line 2, column 23: \w+"),
        ("", r"is no JSON: line 1, column 1: \w+"),
        ("[1]", r"holds a list; it has to be an object"),
        ('{"fp16": {"enabled": true, "enabled": false}}', r'has the key "enabled" twice'),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(write, content, message):
    path = write(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_place_of_an_error_is_the_user_s_own_line(write):
    for given in ({"quantum": 1}, write("{"), write('{"bf16": 1, "bf16": 2}'), 3):
        with pytest.raises(ConfigurationError) as caught:
            read(given)
        assert one_line(caught.value).startswith(f"{__file__}:")


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"no\.json cannot be read: No such file"):
        read(tmp_path / "no.json")
    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory"):
        read(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"is no text in UTF-8"):
        read(tmp_path / "binary.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no.json"))
    with pytest.raises(ConfigurationError, match=rf"no\.json \({VARIABLE}\) cannot be read"):
        read()


def test_what_is_no_configuration_at_all_is_refused():
    with pytest.raises(ConfigurationError, match=r"config=3\): a configuration is a DeepSpeedConf"):
        read(3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gradient_cliping": 1.0}, "\"gradient_cliping\", did you mean 'gradient_clipping'"),
        (
            {"zero_optimization": {"offload_optimiser": {}}},
            "\"zero_optimization.offload_optimiser\", did you mean 'offload_optimizer'",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}},
            "\"zero_optimization.offload_param.devise\", did you mean 'device'",
        ),
        ({"aio": {"quantum": 1}}, "; block_size, intra_op_parallelism, overlap_events, "),
        ({"quantum": 1}, "https://www.deepspeed.ai/docs/config-json/ lists them"),
        ({"amp": {}}, '"amp" was removed from DeepSpeed'),
        ({"zero_optimization": {"cpu_offload": True}}, 'write "offload_optimizer": {"device": "cp'),
    ],
)
def test_an_unknown_key_is_refused_with_what_may_have_been_meant(values, message):
    with pytest.raises(ConfigurationError) as caught:
        read(values)
    assert message in str(caught.value)


class Listener(dict):
    """A section of a configuration that notes which keys are asked for."""

    def __init__(self, asked: set[str], values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked = asked

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def keys(self):
        return self


READ_BY_HAND = {
    "activation_checkpointing": {},
    "aio": {},
    "checkpoint": {"parallel_write": {"pipeline_stage": False}},
    "data_types": {},
    "flops_profiler": {},
    "optimizer": {"type": "Adam", "params": {}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "timers": {},
    "torch_autocast": {"enabled": False, "dtype": "bfloat16"},
}
"""Sections that DeepSpeed reads key by key, with what makes it read all of them."""


@pytest.fixture(scope="module")
def asked() -> dict[str, set[str]]:
    """Section -> the keys that the installed DeepSpeed asks for when it reads a configuration."""
    from deepspeed.runtime.config import DeepSpeedConfig as Theirs

    asked: dict[str, set[str]] = {"": set(), "checkpoint.writer": set()}
    sections = {}
    for name, values in READ_BY_HAND.items():
        asked[name] = set()
        sections[name] = Listener(asked[name], values)
    dict.__setitem__(
        sections["checkpoint"], "writer", Listener(asked["checkpoint.writer"], {"type": "FAST"})
    )
    Theirs(Listener(asked[""], {"train_micro_batch_size_per_gpu": 1, **sections}))
    return asked


def test_the_keys_at_the_top_are_those_that_deepspeed_reads(asked):
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS as REMOVED

    at_the_top = {key for key in keys.REMOVED if "." not in key}
    assert at_the_top == set(REMOVED)
    # Asked for only where processes are connected.
    silent = {"sequence_parallel_size"}
    assert keys.KNOWN[""] - silent == asked[""] - set(REMOVED) - silent


@pytest.mark.parametrize("section", [*READ_BY_HAND, "checkpoint.writer"])
def test_the_keys_of_a_section_are_those_that_deepspeed_reads(asked, section):
    assert keys.KNOWN[section] == asked[section]


MODELS = {
    "bf16": "deepspeed.runtime.precision_config:DeepSpeedBF16Config",
    "comet": "deepspeed.monitor.config:CometConfig",
    "comms_logger": "deepspeed.comm.config:CommsLoggerConfig",
    "compile": "deepspeed.compile.config:CompileConfig",
    "csv_monitor": "deepspeed.monitor.config:CSVConfig",
    "fp16": "deepspeed.runtime.precision_config:DeepSpeedFP16Config",
    "hybrid_engine": "deepspeed.runtime.config:HybridEngineConfig",
    "tensorboard": "deepspeed.monitor.config:TensorBoardConfig",
    "timers.throughput": "deepspeed.utils.config:DeepSpeedThroughputTimerConfig",
    "wandb": "deepspeed.monitor.config:WandbConfig",
    "zero_optimization": "deepspeed.runtime.zero.config:DeepSpeedZeroConfig",
    "zero_optimization.leaf_module": "deepspeed.runtime.zero.leaf_module_config:DeepSpeedZeroLeafModuleConfig",
    "zero_optimization.offload_optimizer": "deepspeed.runtime.zero.offload_config:DeepSpeedZeroOffloadOptimizerConfig",
    "zero_optimization.offload_param": "deepspeed.runtime.zero.offload_config:DeepSpeedZeroOffloadParamConfig",
    "zero_optimization.zenflow": "deepspeed.runtime.zenflow.zenflow_config:ZenFlowConfig",
}


@pytest.mark.parametrize("section", MODELS)
def test_the_keys_of_a_section_are_the_fields_of_deepspeed_s_model(section):
    theirs = pkgutil.resolve_name(MODELS[section]).model_fields
    names = {name for field, info in theirs.items() for name in (field, info.alias or field)}
    prefix = f"{section}."
    retired = {key for key in {*keys.REMOVED, *keys.RENAMED} if key.startswith(prefix)}
    assert keys.KNOWN[section] == names - {key.removeprefix(prefix) for key in retired}


def test_every_table_is_compared():
    assert set(keys.KNOWN) == {
        "",
        "checkpoint.parallel_write",
        "checkpoint.writer",
        *READ_BY_HAND,
        *MODELS,
    }
