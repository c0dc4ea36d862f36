from __future__ import annotations

import importlib.util
import io
import sys
from functools import partial

import pytest
import torch
from torch import nn

from torchrelay.callbacks import Callback, ModelSummary, RichModelSummary
from torchrelay.callbacks.model_summary import short
from torchrelay.errors import ConfigurationError, NotInstalledError


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def make_trainer(make_trainer):
    return partial(make_trainer, enable_model_summary=True)


def fit(boring, make_trainer, summary, strategy=None, **options):
    module = boring.regression()
    module.net[0].bias.requires_grad_(False)
    module.net[1].eval()
    make_trainer(callbacks=summary, **options).fit(module, boring.loader(8), boring.loader(4))


TOTALS = [
    "      41  trainable parameters",
    "       8  other parameters",
    "      49  parameters in all",
    "0.000187  MiB of parameters",
]


@pytest.mark.parametrize(
    ("depth", "rows"),
    [
        (1, ["   Name  Type        Params  Mode", "0  net   Sequential  49      train"]),
        (
            -1,
            [
                "   Name   Type        Params  Mode",
                "0  net    Sequential  49      train",
                "1  net.0  Linear      40      train",
                "2  net.1  Tanh        0       eval",
                "3  net.2  Dropout     0       train",
                "4  net.3  Linear      9       train",
            ],
        ),
    ],
)
def test_plain_lines(boring, make_trainer, capsys, depth, rows):
    fit(boring, make_trainer, ModelSummary(depth))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [*rows, "-" * max(map(len, rows)), *TOTALS]


def test_a_depth_of_0_prints_nothing(boring, make_trainer, capsys):
    fit(boring, make_trainer, ModelSummary(0))
    assert capsys.readouterr().err == ""


def test_only_fit_shows_it(boring, make_trainer, capsys):
    trainer = make_trainer(callbacks=ModelSummary(), logger=False)
    trainer.validate(boring.regression(), boring.loader(4))
    assert capsys.readouterr().err == ""


def test_always_a_table(boring, make_trainer, capsys):
    pytest.importorskip("rich")
    fit(boring, make_trainer, RichModelSummary(2, header_style="bold magenta"))
    text = capsys.readouterr().err
    for part in ("Name", "net.3", "Dropout", "parameters in all", "│"):
        assert part in text


def test_rich_that_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=r'run: pip install "torchrelay\[rich\]"$'):
        RichModelSummary()


def test_what_is_not_here_is_said(boring, make_trainer, capsys):
    class Sharded(Callback):
        """Leaves rank 0 half of a weight and none of another, as strategies that shard do."""

        def on_fit_start(self, trainer, pl_module):
            pl_module.net[0].weight.data = pl_module.net[0].weight.data[:4].clone()
            pl_module.net[3].weight.data = torch.empty(0)

    trainer = make_trainer(callbacks=[Sharded(), ModelSummary()], logger=False)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        trainer.fit(boring.regression(), boring.loader(4))
    lines = capsys.readouterr().err.splitlines()
    assert "      25  parameters in all" in lines
    assert lines[-2:] == [
        "       1  tensors that are empty: not made yet, or on other ranks",
        "      49  parameters before they were shared out among the ranks",
    ]


def test_a_table_on_a_terminal(boring, make_trainer, monkeypatch):
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(boring, make_trainer, ModelSummary(2))
    text = terminal.getvalue()
    for part in ("Name", "net.3", "Dropout", "parameters in all", "│"):
        assert part in text


def test_parameters_that_are_shared_or_not_made_yet(boring, make_trainer, capsys):
    module = boring.regression()
    module.again = module.net[0]
    module.lazy = nn.LazyLinear(3)
    from torchrelay.callbacks.model_summary import count, summarize

    assert count(module) == 49
    assert {row.name: row.parameters for row in summarize(module)} == {"net": 49, "lazy": 0}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 K"),
        (12345, "12.3 K"),
        (999_600, "1 M"),
        (7_110_000_000, "7.11 B"),
        (2 * 10**12, "2 T"),
    ],
)
def test_numbers_in_short(number, text):
    assert short(number) == text


@pytest.mark.parametrize("depth", [-2, 1.5, "all"])
def test_a_depth_that_makes_no_sense(depth):
    with pytest.raises(ConfigurationError, match=r"max_depth=.*: must be a whole number from -1"):
        ModelSummary(depth)
