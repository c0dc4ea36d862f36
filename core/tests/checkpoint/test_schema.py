from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrelay.checkpoint import TorchCheckpointIO, check_manifest, make_manifest
from torchrelay.checkpoint.schema import MANIFEST, SCHEMA_VERSION
from torchrelay.errors import CheckpointError


def manifest() -> dict[str, Any]:
    return make_manifest(
        strategy="torchrelay_ddp.strategy.DDPStrategy",
        alias="ddp",
        distribution="torchrelay-ddp",
        distribution_version="0.1.0",
        world_size=2,
    )


def test_manifest_travels_through_a_file(tmp_path: Path) -> None:
    io, path = TorchCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"state_dict": {}, MANIFEST: manifest()}, path)
    found = check_manifest(io.load_checkpoint(path))
    assert found is not None
    assert found["schema"] == SCHEMA_VERSION
    assert found["torchrelay"] == version("torchrelay")
    assert found["torch"] == torch.__version__
    assert (found["alias"], found["distribution"], found["world_size"]) == (
        "ddp",
        "torchrelay-ddp",
        2,
    )
    assert found["created"].endswith("+00:00")


def test_a_file_of_lightnings_has_no_manifest() -> None:
    checkpoint = {"state_dict": {}, "epoch": 1, "pytorch-lightning_version": "2.6.0"}
    assert check_manifest(checkpoint) is None


def test_a_later_form_names_the_version_to_install() -> None:
    later = manifest() | {"schema": SCHEMA_VERSION + 1, "torchrelay": "9.1"}
    with pytest.raises(CheckpointError, match=r'form 2, .*pip install "torchrelay>=9.1"'):
        check_manifest({"state_dict": {}, MANIFEST: later})


@pytest.mark.parametrize("bare", [{}, {"layer.weight": 1}, {"state_dict": 3}])
def test_bare_weights_are_no_checkpoint(bare: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        check_manifest(bare)
