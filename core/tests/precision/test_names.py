from __future__ import annotations

from typing import Any

import pytest

from torchrelay.errors import UnknownNameError
from torchrelay.precision.names import NAMES, canonical


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (16, "16-mixed"),
        ("16", "16-mixed"),
        ("bf16", "bf16-mixed"),
        ("BF16 ", "bf16-mixed"),
        (32, "32-true"),
        ("32", "32-true"),
        (64, "64-true"),
        ("64", "64-true"),
        *((name, name) for name in NAMES),
    ],
    ids=repr,
)
def test_old_spellings_and_todays_names(asked: Any, name: str) -> None:
    assert canonical(asked) == name


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("bf16-mixd", "did you mean 'bf16-mixed'?"),
        ("16-tru", "did you mean '16-true'"),
        (8, ""),
        (True, ""),
    ],
)
def test_unknown_name_says_what_there_is(asked: Any, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        canonical(asked)
    message = str(caught.value)
    assert repr(asked) in message
    assert hint in message
    assert all(name in message for name in NAMES)
    assert "16 is 16-mixed" in message
    assert "\n" not in message


def test_plugins_names_are_taken_when_they_are_known() -> None:
    assert canonical("8-true", known=[*NAMES, "8-true"]) == "8-true"
    with pytest.raises(UnknownNameError, match="choose one of 32-true"):
        canonical("bf16", known=["32-true"])
