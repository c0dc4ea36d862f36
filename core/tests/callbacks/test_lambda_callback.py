from __future__ import annotations

import pytest

from torchrelay.callbacks import LambdaCallback
from torchrelay.errors import ConfigurationError


def test_functions_are_called_as_hooks(boring, make_trainer):
    calls = []
    callback = LambdaCallback(
        setup=lambda trainer, pl_module, stage: calls.append(stage),
        on_train_batch_end=lambda trainer, pl_module, outputs, batch, i: calls.append(i),
        on_train_end=lambda trainer, pl_module: calls.append(trainer.global_step),
        on_test_start=None,
    )
    module = boring.regression()
    make_trainer(callbacks=callback).fit(module, boring.loader(8), boring.loader(4))
    assert calls == ["fit", 0, 1, 2]


@pytest.mark.parametrize(
    ("functions", "match"),
    [
        ({"on_training_end": print}, "on_training_end=...*no such hook; did you mean on_train"),
        ({"log": print}, "no such hook; it has .*on_train_start"),
        ({"state_dict": print}, "no such hook"),
        ({"on_fit_end": 5}, "on_fit_end=5.: must be a function"),
    ],
)
def test_what_is_no_hook(functions, match):
    with pytest.raises(ConfigurationError, match=match):
        LambdaCallback(**functions)
