from __future__ import annotations

import os
import signal
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from torchrelay.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from torchrelay.launchers.interruption import Interrupted, KeyboardInterrupted
from torchrelay.trainer import interruption as module_under_test
from torchrelay.trainer.interruption import FARTHEST, Interruption, requeue

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]


class Signals(Callback):
    """Sends this process a signal at a moment."""

    def __init__(self, moment, number=signal.SIGTERM, batch=2):
        self.moment, self.number, self.batch = moment, number, batch
        self.exceptions = []

    def _send(self, moment, batch_idx=None):
        if moment == self.moment and batch_idx in (None, self.batch):
            os.kill(os.getpid(), self.number)

    def setup(self, trainer, pl_module, stage):
        self._send("setup")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._send("batch", batch_idx)

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        self._send("sanity" if trainer.sanity_checking else "validation", batch_idx)

    def on_train_end(self, trainer, pl_module):
        self._send("end")

    def on_exception(self, trainer, pl_module, exception):
        self.exceptions.append(exception)


class Recorder:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.told = []

    def log_metrics(self, metrics, step):
        pass

    def log_graph(self, model):
        self.told.append("log_graph")

    def save(self):
        self.told.append("save")

    def finalize(self, status):
        self.told.append(status)


def fit(boring, make_trainer, callback=None, *, ckpt_path=None, **options):
    module = boring.regression(dropout=0.5)
    callbacks = [] if callback is None else [callback]
    trainer = make_trainer(max_epochs=3, callbacks=callbacks, **options)
    data = (boring.loader(shuffle=True), boring.loader())
    try:
        trainer.fit(module, *data, ckpt_path=ckpt_path)
    except Interrupted as error:
        return trainer, boring.weights(module), error
    return trainer, boring.weights(module), None


MOMENTS = {"setup": 0, "sanity": 0, "batch": 3, "validation": 5, "end": 15}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_the_fit_where_it_goes_on_exactly(
    boring, make_trainer, tmp_path, capsys, moment, accumulate
):
    options = {"accumulate_grad_batches": accumulate}
    _, whole, none = fit(boring, make_trainer, **options)
    assert none is None
    batch = 1 if moment == "sanity" else 2
    signals = Signals(moment, batch=batch)
    trainer, _, error = fit(boring, make_trainer, signals, **options)
    assert (error.code, error.number) == (143, signal.SIGTERM)
    assert signals.exceptions == [error]
    batches = MOMENTS[moment]
    assert trainer.progress.batches == (4 if moment == "batch" and accumulate == 2 else batches)
    line = capsys.readouterr().err
    assert line.startswith("torchrelay: SIGTERM ended the fit at epoch ")
    assert str(tmp_path / "hpc_ckpt_1.ckpt") in line
    resumed, weights, none = fit(boring, make_trainer, ckpt_path="hpc", **options)
    assert none is None
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert resumed.current_epoch == 3


def test_the_checkpoints_count_up_and_the_older_goes(boring, make_trainer, tmp_path):
    for batch in (1, 3):
        left = "hpc" if batch == 3 else None
        fit(boring, make_trainer, Signals("batch", batch=batch), ckpt_path=left)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["hpc_ckpt_2.ckpt"]


def test_handlers_are_put_back_and_the_users_own_is_called(boring, make_trainer):
    heard = []

    def own(number, frame):
        heard.append(number)

    before = signal.signal(signal.SIGTERM, own)
    try:
        assert fit(boring, make_trainer, Signals("batch"))[2] is not None
        assert signal.getsignal(signal.SIGTERM) is own
        with pytest.raises(ZeroDivisionError):
            make_trainer().fit(boring.regression(training_step=lambda *_: 1 / 0), boring.loader())
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored(boring, make_trainer):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert fit(boring, make_trainer, Signals("batch"))[2] is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fit_in_another_thread_sets_no_handler(boring, make_trainer):
    seen = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=fit, args=(boring, make_trainer, Look()))
    thread.start()
    thread.join(30)
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_checkpoint_that_is_due_at_the_end_is_named_in_that_of_the_run(
    boring, make_trainer, tmp_path
):
    keep = ModelCheckpoint(dirpath=tmp_path / "kept", save_last=True)
    module = boring.regression()
    trainer = make_trainer(
        max_epochs=3, callbacks=[Signals("batch"), keep], enable_checkpointing=True
    )
    with pytest.raises(Interrupted):
        trainer.fit(module, boring.loader())
    assert sorted(os.listdir(tmp_path / "kept")) == ["epoch=0-step=3.ckpt", "last.ckpt"]
    saved = torch.load(tmp_path / "hpc_ckpt_1.ckpt", weights_only=True)
    (state,) = saved["callbacks"].values()
    assert state["best_model_path"].endswith("epoch=0-step=3.ckpt")


class Wires:
    """Collectives of a world of which this process is rank 0, and another rank says nothing; counts exchanges."""

    def __init__(self):
        self.exchanges = 0

    def reduce(self, value, op):
        self.exchanges += 1
        return [torch.tensor(each) for each in value]


def test_exchanges_are_about_a_second_apart(monkeypatch):
    wires, clock = Wires(), SimpleNamespace(now=0.0)
    monkeypatch.setattr(module_under_test, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    strategy = SimpleNamespace(world_size=2, is_global_zero=True, collectives=wires)
    watch = Interruption(SimpleNamespace(strategy=strategy))
    exchanged = []
    for step, seconds in enumerate([5.0] + [0.01] * 1000):
        clock.now += seconds
        before = wires.exchanges
        watch.check()
        if wires.exchanges > before:
            exchanged.append(step)
    # the first boundary; then, from 5 s a step, the next; then every 100 steps of 10 ms
    assert exchanged[:2] == [0, 1]
    assert all(95 <= b - a <= 105 for a, b in pairwise(exchanged[1:]))
    clock.now += 1e-9
    watch.finish()
    assert watch._due_in <= FARTHEST


def test_loggers_hear_of_each_end(boring, make_trainer):
    told = {}
    for name, moment in (("failed", "batch"), ("success", "never")):
        logger = Recorder()
        fit(boring, make_trainer, Signals(moment), logger=logger)
        told[name] = logger.told
    assert told["success"] == ["log_graph", "save", "save", "save", "success"]
    assert told["failed"] == ["log_graph", "failed"]
    logger = Recorder()
    with pytest.raises(ZeroDivisionError):
        make_trainer(logger=logger).fit(
            boring.regression(training_step=lambda *_: 1 / 0), boring.loader()
        )
    assert logger.told == ["log_graph", "failed"]


def test_the_keyboard_ends_a_script_with_130_and_a_notebooks_fit_returns(
    boring, make_trainer, monkeypatch, capsys
):
    callback = Signals("batch", signal.SIGINT)
    with pytest.raises(KeyboardInterrupted) as caught:
        fit(boring, make_trainer, callback)
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == 130
    assert [type(each) for each in callback.exceptions] == [KeyboardInterrupt]
    assert "torchrelay: fit was interrupted from the keyboard at epoch 0" in capsys.readouterr().err
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    trainer, _, none = fit(boring, make_trainer, Signals("batch", signal.SIGINT))
    assert none is None
    assert trainer.interrupted
    trainer.callbacks.clear()
    trainer.fit(boring.regression(), boring.loader())
    assert not trainer.interrupted


def raising(self, batch, batch_idx):
    if batch_idx == 3:
        raise ZeroDivisionError("bug")
    return self.loss(batch)


@pytest.mark.parametrize("save_last", [False, True])
def test_model_checkpoint_saves_on_an_exception(boring, make_trainer, tmp_path, save_last):
    keep = ModelCheckpoint(dirpath=tmp_path, save_on_exception=True, save_last=save_last)
    trainer = make_trainer(callbacks=keep, enable_checkpointing=True)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(training_step=raising), boring.loader())
    found = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert found == ["epoch=0-step=3.ckpt"] + ["last.ckpt"] * save_last
    assert torch.load(tmp_path / found[0], weights_only=True)["loops"]["fit"]["batch"] == 3


def test_on_exception_checkpoint(boring, make_trainer, tmp_path):
    keep = OnExceptionCheckpoint(tmp_path / "x")
    trainer = make_trainer(callbacks=keep, enable_checkpointing=True)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(boring.regression(training_step=raising), boring.loader())
    assert os.listdir(tmp_path / "x") == ["on_exception.ckpt"]
    # once it has been gone on from to the end, it is not needed any more
    whole = boring.regression()
    make_trainer().fit(whole, boring.loader())
    module = boring.regression(seed=5)
    again = make_trainer(callbacks=keep, enable_checkpointing=True)
    again.fit(module, boring.loader(), ckpt_path=keep.ckpt_path)
    assert boring.difference(boring.weights(module), boring.weights(whole)) == 0
    assert os.listdir(tmp_path / "x") == []


def test_requeue_says_when_there_is_no_such_command(capsys):
    assert not requeue(("no-such-scontrol", "requeue", "7"))
    assert "the job is not queued again, 'no-such-scontrol requeue 7' cannot be run" in (
        capsys.readouterr().err
    )
