from __future__ import annotations

import pytest


def test_a_barebones_run_logs_nothing_and_says_so_once(boring, make_trainer):
    trainer = make_trainer(barebones=True, logger=None)
    with pytest.warns(
        UserWarning, match=r"log\('loss'\) has no effect with Trainer\(barebones=Tr"
    ) as said:
        trainer.fit(boring.regression(), boring.loader())
    assert len(said) == 1
    assert trainer.callback_metrics == {}
    assert trainer.global_step == 5
    assert (trainer.loggers, trainer.callbacks, trainer.num_sanity_val_steps) == ([], [], 0)
