from __future__ import annotations

import importlib.util
import io
import math
import os
import pty
import subprocess
import sys

import pytest

from torchrelay.cli import main
from torchrelay.cli.plotting import libraries
from torchrelay.errors import NotInstalledError

there = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("matplotlib", "plotext"))), reason="needs the extra plot"
)
SMALL = """\
step,epoch,time,train_loss_step,val_loss,lr-SGD
2,0,0.0,,,0.1
2,0,1.0,1.0,,
4,0,3.0,0.5,,
4,0,3.5,,0.75,
6,1,4.0,0.25,,0.001
8,1,5.0,0.125,,
8,1,5.5,,0.5,
"""
TEXT = """\
                                        loss
     ┌─────────────────────────────────────────────────────────────────────────┐
    1┤o                                                                        │
     │ oooo                                                                    │
0.781┤     ooooo                                                               │
     │          ooooo         x                                                │
0.562┤               ooooo     xxxxxxxxxxxxxxxxxxxxxxxx                        │
     │                    ooooo                        xxxxxxxxxxxxxxxxxxxxxxxx│
     │                         oooooooo                                        │
0.344┤                                 oooooooo                                │
     │                                         oooooooo                        │
0.125┤                                                 oooooooooooooooooooooooo│
     └┬─────────────────┬─────────────────┬─────────────────┬─────────────────┬┘
      2                3.5                5                6.5                8
                                        step
  o train_loss_step
  x val_loss

                                     learning rate
       ┌───────────────────────────────────────────────────────────────────────┐
    0.1┤⠑⠒⠤⠤⣀⡀                                                                 │
       │     ⠈⠉⠑⠒⠢⠤⣀⣀                                                          │
 0.0316┤             ⠉⠑⠒⠢⠤⢄⣀                                                   │
       │                    ⠉⠉⠒⠒⠤⢄⣀⡀                                           │
   0.01┤                           ⠈⠉⠒⠒⠤⠤⣀⡀                                    │
       │                                  ⠈⠉⠑⠒⠤⠤⣀⣀                             │
       │                                          ⠉⠑⠒⠢⠤⢄⣀                      │
0.00316┤                                                 ⠉⠉⠒⠢⠤⢄⣀⡀              │
       │                                                        ⠈⠉⠒⠒⠤⢄⣀⡀       │
  0.001┤                                                               ⠈⠉⠑⠒⠤⠤⣀⣀│
       └┬─────────────────┬────────────────┬─────────────────┬────────────────┬┘
        2                 3                4                 5                6
                                         step
  lr-SGD

                               throughput (steps/s)
   ┌───────────────────────────────────────────────────────────────────────────┐
  2┤                                ⣀⣀⠤⠤⠒⠊⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉│
   │                        ⣀⣀⠤⠤⠒⠒⠉⠉                                           │
1.5┤                ⣀⣀⠤⠤⠒⠒⠉⠉                                                   │
   │        ⣀⣀⠤⠤⠒⠒⠉⠉                                                           │
  1┤⣀⣀⠤⠤⠒⠒⠉⠉                                                                   │
   │                                                                           │
   │                                                                           │
0.5┤                                                                           │
   │                                                                           │
  0┤                                                                           │
   └┬──────────────────┬─────────────────┬──────────────────┬─────────────────┬┘
    4                  5                 6                  7                 8
                                       step
  throughput
"""


@pytest.fixture
def make(tmp_path):
    """Writes the metrics.csv of a run and returns the run's folder."""

    def make(text=SMALL, name="version_0"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
        return folder

    return make


def pixels(path):
    """A picture's height and width, and how many colours it has."""
    from matplotlib import image

    found = image.imread(path)
    return found.shape[0], found.shape[1], len({tuple(c) for c in found[::3, ::3].reshape(-1, 4)})


def error(capsys, *argv):
    """The one line that a command that must fail prints."""
    assert main(["plot", *map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@there
def test_the_picture_and_the_text(make, capsys):
    run = make()
    assert main(["plot", str(run)]) == 0
    out = capsys.readouterr().out
    assert out == f"{TEXT}\nwrote {run}/metrics.png\n"
    height, width, colours = pixels(run / "metrics.png")
    assert (height, width) == (760, 1280)
    assert colours > 20


@there
def test_the_lines_of_the_picture_are_where_the_numbers_are(make, tmp_path):
    for name, last in ("up", 1.0), ("down", 0.0):
        run = make(f"step,loss\n1,{1 - last}\n2,{last}\n", name)
        assert (
            main(["plot", str(run), "--no-terminal", "--output", str(tmp_path / f"{name}.png")])
            == 0
        )
    from matplotlib import image

    def blue(name):
        """The mean row of matplotlib's first colour in the left and in the right third."""
        found = image.imread(tmp_path / f"{name}.png")
        line = abs(found[..., :3] - [0x1F / 255, 0x77 / 255, 0xB4 / 255]).max(axis=2) < 0.02
        thirds = line[:, : line.shape[1] // 3], line[:, -line.shape[1] // 3 :]
        return [third.nonzero()[0].mean() for third in thirds]

    (left, right), (left_down, right_down) = blue("up"), blue("down")
    assert left > right + 50
    assert left_down < right_down - 50


@there
def test_nothing_in_the_terminal_and_another_file(make, tmp_path, capsys):
    out = tmp_path / "a.svg"
    assert main(["plot", str(make() / "metrics.csv"), "--no-terminal", "--output", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert "<svg" in out.read_text()


@there
def test_a_folder_of_runs_means_the_newest(make, tmp_path, capsys):
    for number, age in enumerate([30, 10, 20]):
        path = make(name=f"logs/lightning_logs/version_{number}") / "metrics.csv"
        os.utime(path, (1e9 - age, 1e9 - age))
    assert main(["plot", str(tmp_path / "logs"), "--no-terminal"]) == 0
    newest = "lightning_logs/version_1"
    assert capsys.readouterr().out == (
        f"{tmp_path}/logs holds 3 runs; drawing the newest, {newest}\n"
        f"wrote {tmp_path}/logs/{newest}/metrics.png\n"
    )


@there
def test_several_runs_are_compared(make, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [str(make(name=f"version_{i}")) for i in range(2)]
    assert main(["plot", *runs, "--metrics", "loss"]) == 0
    out = capsys.readouterr().out
    for number, mark in enumerate("ox+*"):
        column = ["train_loss_step", "val_loss"][number % 2]
        assert f"  {mark} version_{number // 2}: {column}\n" in out
    assert out.endswith("wrote metrics.png\n")
    assert pixels("metrics.png")[:2] == (400, 640)


@there
@pytest.mark.parametrize("x", ["step", "epoch", "time"])
def test_what_runs_along(make, capsys, x):
    assert main(["plot", str(make()), "--x", x, "--metrics", "loss"]) == 0
    labels = {"step": "step", "epoch": "epoch", "time": "time (s)"}
    assert f" {labels[x]}\n" in capsys.readouterr().out


@there
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step,loss\n1,0.5\n", "no throughput: {} has no column time"),
        ("step\n1\n2\n", None),
        ("epoch,loss\n1,0.5\n2,nan\n", "loss: 1 of 2 points are NaN or infinite"),
        ("step,loss\n1,nan\n2,inf\n", "loss: no finite value"),
        ("step,loss\n1,3\n2,3\n", "wrote"),
        ("step,loss\n1,1e-300\n2,1e300\n", "wrote"),
        ("step,lr-SGD\n1,0\n2,0.1\n", "wrote"),
        ("step,loss\n1,-5\n2,5\n", "wrote"),
    ],
    ids=["one row", "one column", "NaN", "all NaN", "constant", "huge", "rate 0", "negative"],
)
def test_logs_at_the_edge(make, capsys, text, said):
    run = make(text)
    if said is None:
        assert "nothing to draw" in error(capsys, run)
        return
    assert main(["plot", str(run)]) == 0
    assert said.format(run / "metrics.csv") in capsys.readouterr().out
    assert pixels(run / "metrics.png")[2] > 5


@there
def test_hundreds_of_columns(make, capsys):
    names = [f"m{i}" for i in range(300)]
    values = ",".join(["1"] * 300)
    run = make(f"step,time,{','.join(names)}\n1,0,{values}\n2,1,{values}\n")
    assert main(["plot", str(run), "--no-terminal"]) == 0
    said = "12 of 301 panels are drawn; choose others with --metrics A,B,..."
    assert said in capsys.readouterr().out
    assert pixels(run / "metrics.png")[:2] == (1480, 1920)
    assert error(capsys, run, "--metrics", "m1,nope").endswith(", and 281 more")


@there
def test_a_hundred_thousand_rows(make, capsys):
    rows = "".join(f"{i},{i / 100},{math.sin(i / 9999):.6f}\n" for i in range(100_000))
    assert main(["plot", str(make(f"step,time,loss\n{rows}"))]) == 0
    assert "throughput (steps/s)" in capsys.readouterr().out


@there
def test_what_is_not_there(make, tmp_path, capsys):
    run, empty = make(), tmp_path / "empty"
    empty.mkdir()
    assert error(capsys, tmp_path / "no") == (
        f"torchrelay: error: {tmp_path}/no does not exist; give a run's folder, such as .../version_0"
    )
    assert f"{empty} holds no metrics.csv; give the folder of a run" in error(capsys, empty)
    (empty / "events.out.tfevents.1.host").touch()
    assert f"tensorboard --logdir {empty}" in error(capsys, empty)
    assert error(capsys, run, "--metrics", "acc").endswith(
        "there are learning rate, loss, lr-SGD, throughput, train_loss_step, val_loss"
    )
    assert "expected a CSV file" in error(capsys, __file__)
    old = make("step,loss\n1,1\n", "old")
    assert error(capsys, old, "--x", "time").endswith("has no column time; choose another with --x")
    with pytest.raises(SystemExit) as caught:
        main(["plot"])
    assert caught.value.code == 2


@there
def test_a_picture_that_cannot_be_written(make, tmp_path, capsys):
    run = make()
    assert error(capsys, run, "--no-terminal", "--output", tmp_path / "no" / "a.png").endswith(
        "no/a.png cannot be written: No such file or directory; choose another with --output FILE"
    )
    assert "Format 'xyz' is not supported" in error(capsys, run, "--output", tmp_path / "a.xyz")
    if os.geteuid():
        run.chmod(0o500)
        assert "Permission denied" in error(capsys, run)


def test_without_the_libraries_it_says_how_to_get_them(monkeypatch, make, capsys):
    monkeypatch.setitem(sys.modules, "plotext", None)
    monkeypatch.setattr(libraries, "import_module", missing)
    assert error(capsys, make("step,loss\n1,1\n")) == (
        "torchrelay: error: torchrelay plot needs plotext, which is not installed: "
        'pip install "torchrelay[plot]", or leave the charts in the terminal out with --no-terminal'
    )
    assert error(capsys, make("step,loss\n1,1\n", "b"), "--no-terminal").endswith(
        'needs matplotlib, which is not installed: pip install "torchrelay[plot]"'
    )


def missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])


def test_a_library_that_is_there_but_broken_keeps_its_own_error(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(libraries, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy") as caught:
        libraries.load("matplotlib.figure")
    assert not isinstance(caught.value, NotInstalledError)


CHECK = """
import sys
from torchrelay.cli import main
heavy = ["torch", "matplotlib", "plotext", "matplotlib.pyplot"]
print([name for name in heavy if name in sys.modules])
main(["plot", sys.argv[1], "--no-terminal"])
print([name for name in heavy if name in sys.modules])
"""


@there
def test_it_imports_what_it_needs_when_it_needs_it(make):
    run = make()
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(run)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"[]\nwrote {run}/metrics.png\n['matplotlib']\n", done.stderr


@there
def test_a_terminal_gets_colours_and_one_that_wants_none_does_not(make, monkeypatch):
    from torchrelay.cli.plotting import terminal
    from torchrelay.cli.plotting.axes import Axis
    from torchrelay.cli.plotting.log import Log
    from torchrelay.cli.plotting.panels import panels_of

    panels = panels_of([Log(str(make() / "metrics.csv"), "run")], "step")
    controller, terminal_end = pty.openpty()
    with open(terminal_end, "w") as screen:
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert "\x1b[" in terminal.charts(panels, Axis("step"), screen)
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b[" not in terminal.charts(panels, Axis("step"), screen)
    os.close(controller)
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert terminal.charts(panels, Axis("step"), narrow).isascii()
