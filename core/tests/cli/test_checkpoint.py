from __future__ import annotations

import json
from pathlib import Path

import pytest

from torchrelay.cli import main
from torchrelay.cli.checkpoint import FORMS, size

torch = pytest.importorskip("torch")

DATA = Path(__file__).parents[1] / "checkpoint" / "data"

GOLDEN = """\
Checkpoint
what         value
file         small.ckpt
kind         torchrelay
size         {size}
schema       1
torchrelay   0.1.0
strategy     DDPStrategy
world_size   2
epoch        3
global_step  12
model        3 tensors, 7 numbers, 28 B

Model
tensor  shape   type      size
weight  2 x 2   float32   16 B
half    2       bfloat16  4 B
count   scalar  int64     8 B

Optimizers
groups  parameters are  keeps            size  options
1, 1    named           step, momentum   20 B  lr=0.1

Callbacks
callback         state
EarlyStopping    {{wait: 2}}

Hyper-parameters
name   value
width  2

Other
key  value
rng  {{ranks: [tensor 2 uint8]}}
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small checkpoint in the working directory."""
    monkeypatch.chdir(tmp_path)
    state = {"weight": {"step": torch.tensor(3.0), "momentum": torch.zeros(2, 2)}}
    groups = [{"params": ["weight"], "lr": 0.1}, {"params": ["half"], "lr": 0.1}]
    torch.save(
        {
            "state_dict": {
                "weight": torch.zeros(2, 2),
                "half": torch.zeros(2, dtype=torch.bfloat16),
                "count": torch.tensor(1),
            },
            "optimizer_states": [{"state": state, "param_groups": groups}],
            "epoch": 3,
            "global_step": 12,
            "callbacks": {"EarlyStopping": {"wait": 2}},
            "hyper_parameters": {"width": 2},
            "rng": {"ranks": [torch.zeros(2, dtype=torch.uint8)]},
            "torchrelay": {
                "schema": 1,
                "torchrelay": "0.1.0",
                "strategy": "DDPStrategy",
                "alias": None,
                "world_size": 2,
            },
        },
        "small.ckpt",
    )
    return tmp_path / "small.ckpt"


def squeezed(text):
    """Without the blanks that align columns."""
    return [line.split() for line in text.splitlines()]


def test_inspect_prints_plain_tables(small, capsys):
    assert main(["checkpoint", "inspect", "small.ckpt"]) == 0
    out = capsys.readouterr().out
    golden = GOLDEN.format(size=size(small.stat().st_size))
    assert squeezed(out) == squeezed(golden)
    assert all(line == line.rstrip() for line in out.splitlines())


def test_inspect_prints_json(small, capsys):
    assert main(["checkpoint", "inspect", "--json", "small.ckpt"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "torchrelay"
    assert found["tensors"][0] == {
        "name": "weight",
        "shape": [2, 2],
        "dtype": "float32",
        "size": 16,
    }
    assert found["optimizers"][0]["groups"] == [1, 1]
    assert found["manifest"]["world_size"] == 2


def test_inspect_names_the_code_that_a_file_carries(capsys):
    assert main(["checkpoint", "inspect", str(DATA / "objects.ckpt")]) == 0
    out = capsys.readouterr().out
    assert out.endswith(
        "\n\nCode that it needs\nclass or function\nargparse.Namespace\npathlib.PosixPath\n"
    )


def test_inspect_lists_a_folder(tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "rank0.pt").write_bytes(b"x" * 2048)
    assert main(["checkpoint", "inspect", str(tmp_path / "shards")]) == 0
    assert "rank0.pt  2.0 KiB" in capsys.readouterr().out


def test_convert(tmp_path, capsys):
    source, target = str(DATA / "finished.ckpt"), str(tmp_path / "new.ckpt")
    assert main(["checkpoint", "convert", source, target]) == 0
    assert capsys.readouterr().out == f"wrote {target}\n"
    assert main(["checkpoint", "inspect", target]) == 0
    assert "kind         torchrelay\n" in capsys.readouterr().out
    assert main(["checkpoint", "convert", source, target, "--to", "weights"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"torchrelay: error: {target} is there already")
    assert captured.err.count("\n") == 1


def test_the_forms_are_those_of_the_conversion():
    from torchrelay.checkpoint import conversion

    assert tuple(conversion.FORMS) == FORMS


def test_sizes():
    assert [size(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30, 2 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "2.0 TiB",
    ]
