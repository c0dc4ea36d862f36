from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from torchrelay import LightningDataModule
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


MOMENTS = {"batch": 3, "validation": 5, "end": 15}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_the_fit_where_it_goes_on_exactly(
    boring, make_trainer, tmp_path, capsys, moment, accumulate
):
    options = {"accumulate_grad_batches": accumulate}
    _, whole, none = fit(boring, make_trainer, **options)
    assert none is None
    signals = Signals(moment)
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


UNSAVED = "torchrelay: SIGTERM ended the fit before it had made an update; nothing is saved"


@pytest.mark.parametrize("moment", ["setup", "sanity", "batch"])
def test_before_the_first_update_a_signal_ends_the_fit_at_once_and_saves_nothing(
    boring, make_trainer, tmp_path, capsys, moment
):
    signals = Signals(moment, batch=0)
    keep = OnExceptionCheckpoint(tmp_path / "kept")
    keeps = ModelCheckpoint(dirpath=tmp_path / "kept", save_on_exception=True)
    trainer = make_trainer(
        callbacks=[signals, keep, keeps], enable_checkpointing=True, accumulate_grad_batches=2
    )
    with pytest.raises(Interrupted) as caught:
        trainer.fit(boring.regression(), boring.loader(), boring.loader())
    error = caught.value
    assert (error.code, error.number, error.alone) == (143, signal.SIGTERM, True)
    assert signals.exceptions == [error]
    assert trainer.global_step == 0
    assert capsys.readouterr().err == f"{UNSAVED}\n"
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("where", ["module", "data module", "configure_model", "build", "prepare"])
def test_a_hook_that_takes_long_is_left_at_once(boring, make_trainer, where):
    begun = []

    def takes_long(*_):
        begun.append(time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        time.sleep(50)

    def send(number, frame):
        os.kill(os.getpid(), signal.SIGTERM)

    class Data(LightningDataModule):
        def train_dataloader(self):
            return boring.loader()

    names = {
        "module": "setup",
        "configure_model": "configure_model",
        "build": "configure_optimizers",
    }
    module = boring.regression(**({names[where]: takes_long} if where in names else {}))
    Data.setup = takes_long if where == "data module" else Data.setup
    Data.prepare_data = takes_long if where == "prepare" else Data.prepare_data
    before = signal.signal(signal.SIGALRM, send)
    try:
        with pytest.raises(Interrupted):
            make_trainer().fit(module, Data())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun[0] < 30


def test_a_resumed_run_that_made_no_update_saves_nothing_new(
    boring, make_trainer, tmp_path, capsys
):
    fit(boring, make_trainer, Signals("batch"))
    before = (tmp_path / "hpc_ckpt_1.ckpt").read_bytes()
    capsys.readouterr()
    _, _, error = fit(boring, make_trainer, Signals("setup"), ckpt_path="hpc")
    assert (error.code, error.alone) == (143, True)
    went_on = f"it went on from {tmp_path / 'hpc_ckpt_1.ckpt'}"
    assert capsys.readouterr().err == f"{UNSAVED}, {went_on}\n"
    assert (tmp_path / "hpc_ckpt_1.ckpt").read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["hpc_ckpt_1.ckpt"]


def test_a_request_that_a_hook_swallows_ends_the_run_before_its_first_batch(
    boring, make_trainer, tmp_path, capsys
):
    def setup(self, stage):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            self.swallowed = True

    module = boring.regression(setup=setup)
    trainer = make_trainer()
    with pytest.raises(Interrupted) as caught:
        trainer.fit(module, boring.loader(), boring.loader())
    assert module.swallowed
    assert caught.value.code == 143
    assert trainer.progress.batches == 0
    assert capsys.readouterr().err == f"{UNSAVED}\n"
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_second_signal_while_the_run_is_left_raises_nothing_more(boring, make_trainer):
    torn_down = []

    class Leaves(Signals):
        def teardown(self, trainer, pl_module, stage):
            os.kill(os.getpid(), signal.SIGTERM)
            torn_down.append(stage)

    _, _, error = fit(boring, make_trainer, Leaves("setup"))
    assert error.code == 143
    assert torn_down == ["fit"]


def test_a_process_that_a_hook_forks_ends_by_the_signal(boring, make_trainer):
    """As those of `multiprocessing.Pool` have to, which ends them so."""
    ends = []

    def setup(self, stage):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(50,))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            child.start()
        child.terminate()
        child.join(30)
        ends.append(child.exitcode)

    module = boring.regression(setup=setup)
    make_trainer(max_epochs=1).fit(module, boring.loader())
    assert ends == [-signal.SIGTERM]


def test_a_run_that_is_asked_to_end_in_between_is_the_programs_affair(boring, make_trainer):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("asked"))
    try:
        assert fit(boring, make_trainer)[2] is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert fit(boring, make_trainer)[2] is None
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["asked"]


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
    progress = SimpleNamespace(global_step=0)
    watch = Interruption(SimpleNamespace(strategy=strategy, progress=progress))
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
