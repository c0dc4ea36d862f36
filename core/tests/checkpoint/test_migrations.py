from __future__ import annotations

from typing import Any

import pytest

from torchrelay.checkpoint import migrate, to_canonical
from torchrelay.checkpoint.migrations import MIGRATIONS
from torchrelay.checkpoint.schema import MANIFEST, SCHEMA_VERSION
from torchrelay.errors import CheckpointError


def optimizer_renamed(checkpoint: dict[str, Any]) -> dict[str, Any]:
    checkpoint["optimizer_states"] = [checkpoint.pop("optimizer")]
    return checkpoint


def epoch_counted_from_zero(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {**checkpoint, "epoch": checkpoint["epoch"] - 1}


CHAIN = {1: optimizer_renamed, 2: epoch_counted_from_zero}


def old(schema: int) -> dict[str, Any]:
    manifest = {"schema": schema, "torchrelay": "0.1", "created": "then"}
    return {"state_dict": {}, "epoch": 3, "optimizer": {"lr": 1}, MANIFEST: manifest}


def test_one_version_after_another() -> None:
    first = old(1)
    found = migrate(first, CHAIN, to=3)
    assert found == {
        "state_dict": {},
        "epoch": 2,
        "optimizer_states": [{"lr": 1}],
        MANIFEST: {"schema": 3, "torchrelay": "0.1", "created": "then"},
    }
    assert first == old(1)


def test_from_the_middle_and_from_the_end() -> None:
    second = old(2)
    assert migrate(second, CHAIN, to=3)["epoch"] == 2
    assert migrate(old(3), CHAIN, to=3) == old(3)


@pytest.mark.parametrize("schema", [4, 0, -1, "1", None])
def test_no_such_form(schema: Any) -> None:
    with pytest.raises(
        CheckpointError, match=rf"in form {schema}, .* reads forms 1 to 3; pip install"
    ):
        migrate(old(schema), CHAIN, to=3)


def test_without_a_manifest_nothing_is_changed() -> None:
    assert to_canonical({"state_dict": {}, "epoch": 1}) == {"state_dict": {}, "epoch": 1}
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        to_canonical({"w": 1})


def test_every_earlier_form_can_be_read() -> None:
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))
