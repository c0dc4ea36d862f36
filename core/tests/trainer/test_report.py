from __future__ import annotations

import pytest

from torchrelay.trainer.report import show_results


def test_plain_columns(capsys):
    show_results("test", [{"loss": 0.5, "acc": 1.0}, {"acc": 0.123456789}])
    assert capsys.readouterr().out.splitlines() == [
        "test metric  DataLoader 0  DataLoader 1",
        "loss         0.5",
        "acc          1             0.123457",
    ]


def test_nothing_logged_prints_nothing(capsys):
    show_results("test", [{}])
    assert capsys.readouterr().out == ""


def test_a_table_on_a_terminal(capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show_results("validate", [{"loss": 0.5}])
    printed = capsys.readouterr().out
    assert "validate metric" in printed
    assert "┃" in printed


@pytest.mark.parametrize("verbose", [True, False])
def test_it_is_shown_unless_nobody_wants_it(boring, make_trainer, capsys, verbose):
    make_trainer().test(boring.regression(), boring.loader(), verbose=verbose)
    assert ("test_loss" in capsys.readouterr().out) == verbose
