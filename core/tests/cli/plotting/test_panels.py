from __future__ import annotations

import math

import pytest

from torchrelay.cli.plotting.axes import axis_of
from torchrelay.cli.plotting.log import Log
from torchrelay.cli.plotting.panels import Series, first, panels_of, thinned, title_of


@pytest.fixture
def read(tmp_path):
    def read(text, name="run"):
        path = tmp_path / f"{name}.csv"
        path.write_text(text)
        return Log(str(path), name)

    return read


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("loss", "loss"),
        ("train_loss_step", "loss"),
        ("train_loss_epoch", "loss"),
        ("val_loss", "loss"),
        ("val/loss", "loss"),
        ("loss/validation", "loss"),
        ("test_acc/dataloader_idx_1", "acc"),
        ("trainer_loss", "trainer_loss"),
        ("val", "val"),
        ("lr-Adam/pg1", "learning rate"),
        ("run-lr-Adam", "learning rate"),
        ("lr-SGD-momentum/pg2", "momentum"),
        ("lr-SGD-weight_decay", "weight decay"),
    ],
)
def test_what_a_column_is_about(name, title):
    assert title_of(name) == title


def test_one_panel_a_kind_in_an_order_that_does_not_depend_on_the_file(read):
    log = read("step,epoch,lr-SGD,acc,val_loss,loss_step,note\n1,0,.1,.5,2,1,\n")
    panels = panels_of([log], "step")
    assert [(p.title, [s.label for s in p.series]) for p in panels] == [
        ("loss", ["val_loss", "loss_step"]),
        ("acc", ["acc"]),
        ("learning rate", ["lr-SGD"]),
    ]


def test_empty_cells_are_no_points_and_what_is_not_finite_is_a_gap(read):
    log = read("step,loss\n1,1\n2,\n3,inf\n4,nan\n5,2\n,7\n")
    (panel,) = panels_of([log], "step")
    (series,) = panel.series
    assert series.x == [1, 3, 4, 5]
    assert [y for y in series.y if not math.isnan(y)] == [1, 2] == panel.finite


def test_what_a_resumed_run_went_through_again_counts_once(read):
    log = read("step,loss\n10,1\n20,2\n30,3\n20,4\n40,5\n")
    (panel,) = panels_of([log], "step")
    assert (panel.series[0].x, panel.series[0].y) == ([10, 20, 40], [1, 4, 5])


def test_an_epoch_is_a_mean(read):
    log = read("step,epoch,loss\n1,0,1\n2,0,3\n3,1,5\n")
    (panel,) = panels_of([log], "epoch")
    assert (panel.series[0].x, panel.series[0].y) == ([0, 1], [2, 5])


def test_throughput_is_between_neighbouring_rows_of_training_in_one_process(read):
    log = read(
        "step,time,lr-SGD,loss_step,val_loss\n"
        "50,0.0,0.1,,\n"
        "50,9.0,,1,\n"
        "100,9.1,0.1,,\n"
        "100,19.0,,1,\n"
        "100,20.0,,,3\n"
        "150,24.0,,1,\n"
        "200,24.0,0.1,,\n"  # the next process
        "200,34.0,,1,\n"
        "250,39.0,,1,\n"
    )
    panel = panels_of([log], "step", ["throughput"])[0]
    assert (panel.series[0].x, panel.series[0].y) == ([100, 150, 250], [5, 10, 10])
    assert panel.unit == "steps/s"


def test_runs_are_compared_in_the_same_panels(read):
    logs = [read("step,loss\n1,1\n", "one"), read("step,loss,acc\n1,2\n2,,3\n", "two")]
    panels = panels_of(logs, "step")
    assert [(p.title, [s.label for s in p.series]) for p in panels] == [
        ("loss", ["one: loss", "two: loss"]),
        ("acc", ["two: acc"]),
    ]


def test_a_choice_of_metrics_by_column_or_title(read):
    log = read("step,time,loss_step,loss_epoch,acc\n1,0,1,,2\n2,1,1,,3\n2,2,,1,\n")
    assert [p.title for p in panels_of([log], "step", ["acc"])] == ["acc"]
    (panel,) = panels_of([log], "step", ["loss_epoch"])
    assert [s.label for s in panel.series] == ["loss_epoch"]
    assert len(panels_of([log], "step", ["loss"])[0].series) == 2


def test_the_first_panels_and_always_rate_and_throughput(read):
    names = [f"m{i}" for i in range(100)]
    row = ",".join(["1"] * 100)
    log = read(f"step,time,lr-SGD,{','.join(names)}\n1,0,.1,{row}\n2,1,.1,{row}\n")
    panels = panels_of([log], "step")
    assert len(panels) == 102
    assert [p.title for p in first(panels)] == [*names[:10], "learning rate", "throughput"]


@pytest.mark.parametrize(
    ("rates", "expected"), [((0.1, 0.01), True), ((0.1, 0.09), False), ((0.1, 0.0), False)]
)
def test_rates_over_decades_are_logarithmic(read, rates, expected):
    log = read("step,lr-SGD,loss\n1,{},1\n2,{},100\n".format(*rates))
    loss, rate = panels_of([log], "step")
    assert (loss.logarithmic, rate.logarithmic) == (False, expected)


def test_thinning_keeps_what_stands_out():
    x = [float(i) for i in range(100_000)]
    y = [1.0] * 100_000
    y[31_415], y[27_182], y[5] = 9.0, -9.0, math.nan
    thin = thinned(Series("loss", x, y), buckets=100)
    assert len(thin.x) <= 200
    assert (max(thin.y), min(thin.y)) == (9.0, -9.0)
    assert thin.x == sorted(thin.x)
    gap = thinned(Series("loss", x, [math.nan] * 100_000), buckets=100)
    assert 0 < len(gap.x) <= 100
    short = Series("loss", x[:50], y[:50])
    assert thinned(short, buckets=100) is short


@pytest.mark.parametrize(
    ("seconds", "label", "scale"),
    [(10, "time (s)", 1), (400, "time (min)", 60), (20_000, "time (h)", 3600)],
)
def test_time_in_a_unit_that_can_be_read(read, seconds, label, scale):
    panels = panels_of([read(f"step,time,loss\n1,0,1\n2,{seconds},1\n")], "time", ["loss"])
    assert (axis_of("time", panels).label, axis_of("time", panels).scale) == (label, scale)
    assert axis_of("step", panels).scale == 1
