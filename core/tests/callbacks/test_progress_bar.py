from __future__ import annotations

import io
import sys

import pytest

from torchrelay.callbacks import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(boring, make_trainer, train=None, **options):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("i", batch_idx, prog_bar=True)
        self.log("hidden", 1.0)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", 0.25, prog_bar=True)

    module = boring.regression(training_step=training_step, validation_step=validation_step)
    trainer = make_trainer(callbacks=ProgressBar(refresh_rate=1e9), **{"max_epochs": 2, **options})
    trainer.fit(module, train or boring.loader(20), boring.loader(8))


def test_a_line_an_epoch_where_nobody_watches(boring, make_trainer, capsys):
    fit(boring, make_trainer)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {epoch}/2  5/5 batches  ")
        assert "steps/s" in line
        assert "i=4  accuracy=0.25" in line or "accuracy=0.25  i=4" in line
        assert "hidden" not in line


def test_lengths_that_are_not_known(boring, make_trainer, capsys):
    fit(boring, make_trainer, boring.Stream(list(boring.loader(20))), max_epochs=None, max_steps=10)
    assert capsys.readouterr().err.splitlines()[0].startswith("epoch 1  5 batches  ")


def test_a_terminal_is_redrawn(boring, make_trainer, monkeypatch):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    fit(boring, make_trainer)
    text = terminal.getvalue()
    for part in ("epoch 1/2", "epoch 2/2", "1/5", "5/5", "accuracy=0.25"):
        assert part in text
    assert (
        text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    )  # the cursor is hidden, and given back


def test_the_terminal_is_given_back_when_a_run_fails(boring, make_trainer, monkeypatch):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    def training_step(self, batch, batch_idx):
        raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=ProgressBar()).fit(
            boring.regression(training_step=training_step), boring.loader()
        )
    assert terminal.getvalue().count("\x1b[?25h") == 1
