from __future__ import annotations

import importlib.util
import io
import pickle
import re
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from torchrelay.callbacks import (
    Callback,
    ProgressBar,
    RichProgressBar,
    TQDMProgressBar,
    progress_bar,
    progress_displays,
)
from torchrelay.callbacks.progress_displays import (
    NotebookDisplay,
    PlainDisplay,
    Reading,
    choose_display,
    in_notebook,
    line_of,
)
from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.module import is_overridden

BATCH_STARTS = [f"on_{name}_batch_start" for name in ("train", "validation", "test", "predict")]
BATCH_HOOKS = [f"on_{name}_batch_end" for name in ("train", "validation", "test", "predict")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def make_trainer(make_trainer):
    return partial(make_trainer, enable_progress_bar=True)


@pytest.fixture
def watch(monkeypatch):
    """Makes stderr a terminal; called by the test itself, because pytest sets stderr anew after the fixtures."""

    def begin():
        made = Terminal()
        monkeypatch.setattr(sys, "stderr", made)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "160")
        return made

    return begin


def model(boring, **methods):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("i", batch_idx, prog_bar=True)
        self.log("hidden", 1.0)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", 0.25, prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.log("score", 0.5, prog_bar=True)

    steps = {
        "training_step": training_step,
        "validation_step": validation_step,
        "test_step": test_step,
    }
    return boring.regression(**{**steps, **methods})


def fit(boring, make_trainer, bar=None, train=None, **options):
    bar = bar or ProgressBar(refresh_rate=1e9)
    trainer = make_trainer(callbacks=bar, **{"max_epochs": 2, "logger": False, **options})
    trainer.fit(model(boring), train or boring.loader(20), boring.loader(8))
    return trainer


# --- where nobody watches -----------------------------------------------------------------------------------


def test_a_line_an_epoch_where_nobody_watches(boring, make_trainer, capsys):
    fit(boring, make_trainer)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    for epoch, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {epoch}/2  5/5 batches  ")
        assert "steps/s" in line
        assert "i=4  accuracy=0.25" in line or "accuracy=0.25  i=4" in line
        assert "hidden" not in line


def test_neither_sanity_check_nor_validation_has_a_line_within_fit(boring, make_trainer, capsys):
    fit(boring, make_trainer)
    err = capsys.readouterr().err
    assert "sanity" not in err
    assert "validation" not in err


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("validate", r"validation  2/2 batches  [\d.]+ batches/s  accuracy=0.25"),
        ("test", r"test  2/2 batches  [\d.]+ batches/s  score=0.5"),
        ("predict", r"prediction  2/2 batches  [\d.]+ batches/s"),
    ],
)
def test_a_line_for_each_of_the_other_stages(boring, make_trainer, capsys, stage, line):
    trainer = make_trainer(callbacks=ProgressBar(), logger=False)
    getattr(trainer, stage)(model(boring), boring.loader(8))
    (shown,) = [x for x in capsys.readouterr().err.splitlines() if "batches" in x]
    assert re.fullmatch(line, shown)


def test_lengths_that_are_not_known(boring, make_trainer, capsys):
    stream = boring.Stream(list(boring.loader(20)))
    fit(boring, make_trainer, train=stream, max_epochs=None, max_steps=10)
    assert "epoch 1  5 batches  " in capsys.readouterr().err
    trainer = make_trainer(callbacks=ProgressBar(), logger=False)
    trainer.validate(model(boring), stream)
    assert re.search(r"validation  \d+\.\d s  accuracy=0.25", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, BATCH_STARTS),
        ({"line_every_n_seconds": None}, []),
        ({"refresh_rate": 0}, []),
    ],
    ids=["lines", "the last line alone", "nothing"],
)
def test_who_listens_to_batches_where_nothing_is_redrawn(boring, make_trainer, options, expected):
    heard = []

    class Asks(Callback):
        def on_train_start(self, trainer, pl_module):
            bar, names = trainer.progress_bar_callback, [*BATCH_HOOKS, *BATCH_STARTS]
            heard.extend(name for name in names if is_overridden(name, bar, Callback))

    bar = ProgressBar(**options)
    make_trainer(callbacks=[bar, Asks()], logger=False).fit(model(boring), boring.loader(8))
    assert heard == expected
    assert not {*vars(bar)} & {*BATCH_HOOKS, *BATCH_STARTS}


@pytest.fixture
def clock(monkeypatch):
    """A clock for bars, which goes on by ten seconds with each batch that the callback `Passes` sees."""

    class Passes(Callback):
        now = 1000.0

        def pass_time(self, *args):
            Passes.now += 10

        on_train_batch_end = on_validation_batch_end = pass_time
        on_test_batch_end = on_predict_batch_end = pass_time

    time = SimpleNamespace(perf_counter=lambda: Passes.now)
    monkeypatch.setattr(progress_bar, "time", time)
    monkeypatch.setattr(progress_displays, "time", time)
    return Passes()


def lines_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "batches" in line]


@pytest.mark.parametrize("kind", [ProgressBar, RichProgressBar, TQDMProgressBar])
def test_a_line_every_thirty_seconds(boring, make_trainer, capsys, clock, kind):
    for name in {RichProgressBar: ["rich"], TQDMProgressBar: ["tqdm"]}.get(kind, []):
        pytest.importorskip(name)
    trainer = make_trainer(callbacks=[kind(), clock], logger=False, max_epochs=2)
    trainer.fit(model(boring), boring.loader(32))
    begun = [f"epoch {n}/2  {done}/8 batches  0.1 steps/s" for n in (1, 2) for done in (3, 6, 8)]
    lines = lines_of(capsys)
    assert [line[: len(start)] for line, start in zip(lines, begun, strict=True)] == begun
    assert lines[0].endswith("  0:30<0:50  i=2")
    assert lines[1].endswith("  1:00<0:20  i=5")
    assert lines[2].endswith("0.1 steps/s  i=7")


def test_an_epoch_that_is_shorter_prints_its_end_alone(boring, make_trainer, capsys, clock):
    trainer = make_trainer(callbacks=[ProgressBar(), clock], logger=False, max_epochs=2)
    trainer.fit(model(boring), boring.loader(12))
    assert [line[:22] for line in lines_of(capsys)] == [f"epoch {n}/2  3/3 batches" for n in (1, 2)]


@pytest.mark.parametrize(
    ("every", "expected"), [(0, [1, 2, 3, 4, 5, 6, 7, 8]), (45, [5, 8]), (None, [8])]
)
def test_how_often_is_the_users_choice(boring, make_trainer, capsys, clock, every, expected):
    bar = ProgressBar(line_every_n_seconds=every)
    make_trainer(callbacks=[bar, clock], logger=False, max_epochs=1).fit(
        model(boring), boring.loader(32)
    )
    assert [int(re.search(r"(\d)/8 batches", line)[1]) for line in lines_of(capsys)] == expected


@pytest.mark.parametrize(
    ("stage", "title"), [("validate", "validation"), ("test", "test"), ("predict", "prediction")]
)
def test_lines_of_the_other_stages_count_all_data_loaders(
    boring, make_trainer, capsys, clock, stage, title
):
    def step(self, batch, batch_idx, dataloader_idx=0):
        self.loss(batch)

    module = model(boring, validation_step=step, test_step=step, predict_step=step)
    trainer = make_trainer(callbacks=[ProgressBar(), clock], logger=False)
    getattr(trainer, stage)(module, [boring.loader(16), boring.loader(16)])
    assert lines_of(capsys) == [
        f"{title}  3/8 batches  0.1 batches/s  0:30<0:50",
        f"{title}  6/8 batches  0.1 batches/s  1:00<0:20",
        f"{title}  8/8 batches  0.1 batches/s",
    ]


def test_a_long_validation_amid_an_epoch(boring, make_trainer, capsys, clock):
    """It shows itself on the way, though not its end, and does not put the epoch's next line off."""
    trainer = make_trainer(
        callbacks=[ProgressBar(), clock],
        logger=False,
        max_epochs=1,
        val_check_interval=2,
        num_sanity_val_steps=4,
    )
    trainer.fit(model(boring), boring.loader(16), boring.loader(20))
    assert [line.partition(" batches")[0] for line in lines_of(capsys)] == [
        "sanity check  3/4",
        "validation  1/5",
        "validation  4/5",
        "validation  1/5",
        "validation  4/5",
        "epoch 1/1  4/4",
    ]


def test_lines_of_data_without_a_length(boring, make_trainer, capsys, clock):
    stream = boring.Stream(list(boring.loader(16)))
    bar = ProgressBar(line_every_n_seconds=20)
    trainer = make_trainer(callbacks=[bar, clock], logger=False, max_epochs=1)
    trainer.fit(model(boring), stream)
    assert lines_of(capsys)[0].startswith("epoch 1/1  2 batches  0.1 steps/s  0:20  i=1")


def test_reading_metrics_waits_for_a_line(boring, make_trainer, clock):
    read = []

    class Mine(ProgressBar):
        def get_metrics(self, trainer, pl_module):
            read.append(trainer.global_step)
            return super().get_metrics(trainer, pl_module)

    make_trainer(callbacks=[Mine(), clock], logger=False, max_epochs=1).fit(
        model(boring), boring.loader(32)
    )
    assert read == [3, 6, 8]


@pytest.mark.timeout(120)
def test_only_the_first_rank_prints(boring, make_trainer, capfd):
    pytest.importorskip("torchrelay_ddp")
    fit(boring, make_trainer, train=boring.loader(32), strategy="ddp_fork", devices=2, max_epochs=1)
    assert capfd.readouterr().err.count("epoch 1/1  4/4 batches") == 1


# --- on a terminal ------------------------------------------------------------------------------------------


def test_a_terminal_is_redrawn(boring, make_trainer, watch):
    terminal = watch()
    pytest.importorskip("rich")
    bar = ProgressBar(refresh_rate=1e9)
    fit(boring, make_trainer, bar)
    text = terminal.getvalue()
    for part in ("epoch 1/2", "epoch 2/2", "1/5", "5/5", "accuracy=0.25"):
        assert part in text
    for part in ("sanity check", "validation", "1/2", "2/2"):
        assert part in text
    # the cursor is hidden, and given back
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert not any(name in vars(bar) for name in BATCH_HOOKS)


@pytest.mark.parametrize(
    ("stage", "title"), [("validate", "validation"), ("test", "test"), ("predict", "prediction")]
)
def test_the_other_stages_on_a_terminal(boring, make_trainer, watch, stage, title):
    terminal = watch()
    pytest.importorskip("rich")
    trainer = make_trainer(callbacks=ProgressBar(refresh_rate=1e9), logger=False)
    getattr(trainer, stage)(model(boring), boring.loader(12))
    text = terminal.getvalue()
    for part in (title, "1/3", "2/3", "3/3", "batches/s"):
        assert part in text


@pytest.mark.parametrize("watched", [True, False])
def test_several_data_loaders(boring, make_trainer, watch, capsys, watched):
    pytest.importorskip("rich")
    terminal = watch() if watched else None

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.loss(batch)

    module = model(boring, test_step=test_step)
    trainer = make_trainer(callbacks=ProgressBar(refresh_rate=1e9), logger=False)
    trainer.test(module, [boring.loader(8), boring.loader(12)], verbose=False)
    if watched:
        text = terminal.getvalue()
        assert all(part in text for part in ("test 1/2", "test 2/2", "2/2", "3/3"))
    else:
        assert re.match(r"test  5/5 batches  [\d.]+ batches/s\n", capsys.readouterr().err)


def test_the_terminal_is_given_back_when_a_run_fails(boring, make_trainer, watch):
    terminal = watch()
    pytest.importorskip("rich")

    def training_step(self, batch, batch_idx):
        raise ZeroDivisionError("bug")

    trainer = make_trainer(callbacks=ProgressBar(), logger=False)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(training_step=training_step), boring.loader())
    assert terminal.getvalue().count("\x1b[?25h") == 1


def last_frame(text):
    """What the last redraw shows."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text[text.rindex("\x1b[2K") :])


@pytest.mark.parametrize("leave", [True, False])
def test_bars_that_are_left(boring, make_trainer, watch, leave):
    terminal = watch()
    pytest.importorskip("rich")
    fit(boring, make_trainer, RichProgressBar(refresh_rate=1e9, leave=leave))
    frame = last_frame(terminal.getvalue())
    assert "epoch 2/2" in frame
    assert "validation" not in frame
    whole = terminal.getvalue()
    after = whole[whole.index("epoch 2/2") :]
    assert ("epoch 1/2" in after) is leave


def test_rich_in_the_users_own_colours(boring, make_trainer):
    pytest.importorskip("rich")
    from torchrelay.callbacks import RichProgressBarTheme

    file = io.StringIO()
    theme = RichProgressBarTheme(
        metrics="bold red", metrics_format=".1f", metrics_text_delimiter=" | "
    )
    console = {"file": file, "force_terminal": True, "width": 160, "color_system": "standard"}
    bar = RichProgressBar(refresh_rate=1000, theme=theme, console_kwargs=console)
    fit(boring, make_trainer, bar)
    text = file.getvalue()
    assert re.search(r"\x1b\[1;31m(i=4.0 \| accuracy=0.2|accuracy=0.2 \| i=4.0)", text)


def test_rich_where_nobody_watches(boring, make_trainer, capsys):
    pytest.importorskip("rich")
    fit(boring, make_trainer, RichProgressBar())
    assert "epoch 2/2  5/5 batches" in capsys.readouterr().err


def test_tqdm_on_a_terminal(boring, make_trainer, watch):
    terminal = watch()
    pytest.importorskip("tqdm")
    bar = TQDMProgressBar(refresh_rate=2, leave=True)
    bar.time_to_draw = lambda per_second: True
    fit(boring, make_trainer, bar)
    text = terminal.getvalue()
    for part in ("sanity check", "epoch 1/2", "epoch 2/2", "validation", "2/5", "4/5", "5/5"):
        assert part in text
    assert "accuracy=0.25" in text
    assert "3/5" not in text


def test_tqdm_where_nobody_watches(boring, make_trainer, capsys):
    pytest.importorskip("tqdm")
    fit(boring, make_trainer, TQDMProgressBar())
    assert "epoch 2/2  5/5 batches" in capsys.readouterr().err


# --- for users ----------------------------------------------------------------------------------------------


def test_figures_of_the_users(boring, make_trainer, capsys):
    class Mine(ProgressBar):
        train_description = "round"

        def get_metrics(self, trainer, pl_module):
            items = super().get_metrics(trainer, pl_module)
            items.pop("i")
            return {**items, "note": "so far", "nested": {"a": 1}}

    fit(boring, make_trainer, Mine())
    err = capsys.readouterr().err
    assert "round 2/2" in err
    assert "accuracy=0.25  note=so far  nested={'a': 1}\n" in err
    assert "i=4" not in err


@pytest.mark.parametrize("watched", [True, False])
def test_a_subclass_may_listen_to_batches_too(boring, make_trainer, monkeypatch, watched):
    pytest.importorskip("rich")
    stream = Terminal() if watched else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    seen = []

    class Mine(ProgressBar):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            seen.append((batch_idx + 1) / self.total_train_batches)

    fit(boring, make_trainer, Mine(refresh_rate=1e9), max_epochs=1)
    assert seen == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert ("3/5" in stream.getvalue()) is watched


@pytest.mark.parametrize("how", ["zero", "disable"])
def test_nothing_at_all(boring, make_trainer, capsys, how):
    bar = ProgressBar(refresh_rate=0) if how == "zero" else ProgressBar()
    if how == "disable":
        bar.disable()
    assert bar.is_disabled
    fit(boring, make_trainer, bar, enable_model_summary=False)
    assert capsys.readouterr().err == ""
    bar.enable()
    assert bar.is_enabled is (how == "disable")


def test_lines_of_the_users_above_the_bars(boring, make_trainer, watch):
    terminal = watch()
    pytest.importorskip("rich")

    class Says(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.progress_bar_callback.print("batch", batch_idx, "[done]")

    bar = ProgressBar(refresh_rate=1e9)
    bar.print("before")
    trainer = make_trainer(callbacks=[bar, Says()], logger=False)
    trainer.fit(model(boring), boring.loader(8))
    assert terminal.getvalue().startswith("before\n")
    assert "batch 1 [done]" in terminal.getvalue()


def test_it_travels_to_other_processes(boring, make_trainer, watch):
    watch()

    class Pickles(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            copies.append(pickle.loads(pickle.dumps(trainer.progress_bar_callback)))

    copies = []
    bar = ProgressBar(refresh_rate=5)
    trainer = make_trainer(callbacks=[bar, Pickles()], logger=False)
    trainer.fit(model(boring), boring.loader(4))
    assert copies[0].refresh_rate == 5
    with pytest.raises(ConfigurationError, match="has seen no run yet"):
        copies[0].trainer  # noqa: B018


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ProgressBar(refresh_rate=-1), "refresh_rate=-1.: must be a number from 0"),
        (
            lambda: ProgressBar(line_every_n_seconds=-1),
            "line_every_n_seconds=-1.: must be a number from 0, or None",
        ),
        (
            lambda: TQDMProgressBar(line_every_n_seconds="often"),
            "TQDMProgressBar.line_every_n_seconds='often'",
        ),
        (lambda: RichProgressBar(refresh_rate="fast"), "RichProgressBar.refresh_rate='fast'"),
        (lambda: RichProgressBar(theme="dark"), "theme='dark'.: must be a RichProgressBarTheme"),
        (lambda: TQDMProgressBar(refresh_rate=0.5), "refresh_rate=0.5.: must be a whole number"),
        (lambda: TQDMProgressBar(process_position=-1), "process_position=-1.: must be a whole"),
    ],
)
def test_arguments_that_make_no_sense(make, match):
    with pytest.raises(ConfigurationError, match=match):
        make()


@pytest.mark.parametrize(("kind", "needs"), [(RichProgressBar, "rich"), (TQDMProgressBar, "tqdm")])
def test_a_package_that_is_missing(monkeypatch, kind, needs):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == needs else found(name)
    )
    with pytest.raises(NotInstalledError, match=rf'run: pip install "torchrelay\[{needs}\]"$'):
        kind()


# --- displays -----------------------------------------------------------------------------------------------


def test_without_rich_a_terminal_gets_lines(monkeypatch, watch):
    watch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(choose_display(), PlainDisplay)


@pytest.mark.parametrize(
    ("reading", "count", "clock"),
    [
        (Reading(3, 5, "", 12.0, {}), "3/5", "0:12<0:08"),
        (Reading(3, None, "", 3725.0, {}), "3", "1:02:05"),
        (Reading(None, None, "", 59.9, {}), "", "0:59"),
        (Reading(0, 5, "", 2.0, {}), "0/5", "0:02"),
    ],
)
def test_a_reading_in_words(reading, count, clock):
    assert (reading.count, reading.clock) == (count, clock)


def test_figures_that_are_no_numbers():
    shown = Reading(1, 2, "3 steps/s", 1.0, {"a": 0.123456, "b": "x", "c": None})
    assert line_of("epoch 1", shown) == "epoch 1  1/2 batches  3 steps/s  a=0.1235  b=x  c=None"


def test_this_is_no_notebook():
    assert not in_notebook()


NOTEBOOK = """
from torchrelay.callbacks.progress_displays import choose_display
from torchrelay.callbacks.progress_displays import Reading
display = choose_display()
for epoch in (1, 2):
    bar = display.begin(f"epoch {epoch}", 2, passing=False)
    for i in (1, 2):
        bar.draw(Reading(i, 2, "", 1.0, {"loss": 0.5}))
    inner = display.begin("validation", 1, passing=True)
    inner.draw(Reading(1, 1, "", 1.0, {}))
    inner.end(Reading(1, 1, "", 1.0, {}))
    bar.end(Reading(2, 2, "", 1.0, {"loss": 0.25}))
display.close()
type(display).__name__
"""


@pytest.mark.timeout(120)
def test_a_notebook_whose_cell_is_redrawn():
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    nbclient.NotebookClient(book, kernel_name="python3", timeout=100).execute()
    shown, name = book.cells[0].outputs
    assert shown["data"]["text/plain"] == "epoch 2  2/2 batches  loss=0.25"
    assert name["data"]["text/plain"] == f"'{NotebookDisplay.__name__}'"
