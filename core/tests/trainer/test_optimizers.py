from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from torchrelay import Callback
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.optimizers import SchedulerConfig, parse


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


ONE, TWO = sgd(), sgd()
STEP = StepLR(ONE, 1)
PLATEAU = ReduceLROnPlateau(ONE)


@pytest.mark.parametrize(
    ("returned", "optimizers", "configs"),
    [
        (None, [], []),
        (ONE, [ONE], []),
        ([ONE], [ONE], []),
        ((ONE, TWO), [ONE, TWO], []),
        (([ONE], [STEP]), [ONE], [SchedulerConfig(STEP)]),
        (([ONE, TWO], []), [ONE, TWO], []),
        (
            ([ONE], [{"scheduler": STEP, "interval": "step", "frequency": 2, "name": "lr"}]),
            [ONE],
            [SchedulerConfig(STEP, "step", 2, name="lr")],
        ),
        ({"optimizer": ONE}, [ONE], []),
        ({"optimizer": ONE, "lr_scheduler": STEP}, [ONE], [SchedulerConfig(STEP)]),
        ({"optimizer": ONE, "lr_scheduler": None}, [ONE], []),
        (
            {"optimizer": ONE, "lr_scheduler": PLATEAU, "monitor": "loss"},
            [ONE],
            [SchedulerConfig(PLATEAU, monitor="loss")],
        ),
        (
            {
                "optimizer": ONE,
                "lr_scheduler": {"scheduler": PLATEAU, "monitor": "loss", "strict": False},
            },
            [ONE],
            [SchedulerConfig(PLATEAU, monitor="loss", strict=False)],
        ),
        (
            [{"optimizer": ONE, "lr_scheduler": STEP}, {"optimizer": TWO}],
            [ONE, TWO],
            [SchedulerConfig(STEP)],
        ),
    ],
    ids=[
        *(
            "none",
            "one",
            "list",
            "tuple",
            "pair",
            "no-schedulers",
            "config",
            "dict",
            "dict-and-scheduler",
        ),
        *("dict-and-none", "plateau", "plateau-in-dict", "dicts"),
    ],
)
def test_the_forms_of_configure_optimizers(returned, optimizers, configs):
    assert parse(returned) == (optimizers, configs)


MAY_RETURN = "it may return an Optimizer, a list of them"

NONSENSE = {
    "class": (torch.optim.SGD, "returned the class SGD; " + MAY_RETURN),
    "text": ("adam", "returned 'adam'; " + MAY_RETURN),
    "number": (0.1, "returned 0.1; " + MAY_RETURN),
    "empty": ([], "returned a list of nothing; " + MAY_RETURN),
    "not-in-lists": ((ONE, STEP), "returned a tuple of a SGD, a StepLR; " + MAY_RETURN),
    "mixed": ([ONE, {"optimizer": TWO}], "returned a list of a SGD, a dict; " + MAY_RETURN),
    "wrong-key": ({"optim": ONE}, r"a dict with keys \['optim'\]; it needs 'optimizer'"),
    "unknown-key": (
        {"optimizer": ONE, "scheduler": STEP},
        r"a dict with keys \['optimizer', 'scheduler'\]; it needs 'optimizer' .* and takes 'lr_scheduler'",
    ),
    "not-an-optimizer": (
        {"optimizer": "adam"},
        r"a dict with keys \['optimizer'\]; it needs 'optimizer'",
    ),
    "scheduler-is-optimizer": (
        ([ONE], [TWO]),
        "returned a SGD as a learning-rate scheduler; give an object",
    ),
    "scheduler-is-class": (
        ([ONE], [StepLR]),
        "returned the class StepLR as a learning-rate scheduler",
    ),
    "scheduler-is-text": (([ONE], ["cosine"]), "returned 'cosine' as a learning-rate scheduler"),
    "config-without-scheduler": (
        ([ONE], [{"interval": "step"}]),
        r"lr_scheduler has keys \['interval'\]; it needs 'scheduler' and takes frequency, interval",
    ),
    "config-unknown-key": (
        ([ONE], [{"scheduler": STEP, "every": 2}]),
        r"lr_scheduler has keys \['every', 'scheduler'\]; it needs 'scheduler'",
    ),
    "interval": (
        ([ONE], [{"scheduler": STEP, "interval": "batch"}]),
        "interval='batch' must be 'epoch' or 'step'",
    ),
    "frequency": (
        ([ONE], [{"scheduler": STEP, "frequency": 0}]),
        "frequency=0 must be a number from 1",
    ),
    "plateau": (
        ([ONE], [PLATEAU]),
        "ReduceLROnPlateau watches a metric: return it as {'scheduler'",
    ),
}


@pytest.mark.parametrize(("returned", "match"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_in_one_line_before_training(boring, make_trainer, returned, match):
    steps = []
    module = boring.regression(
        configure_optimizers=lambda self: returned, training_step=lambda self, b, i: steps.append(i)
    )
    with pytest.raises(ConfigurationError, match=match) as caught:
        make_trainer().fit(module, boring.loader())
    assert "\n" not in str(caught.value)
    assert steps == []


def test_several_optimizers_need_manual_optimization(boring, make_trainer):
    def configure_optimizers(self):
        return [torch.optim.SGD([p], lr=0.1) for p in list(self.parameters())[:2]]

    module = boring.regression(configure_optimizers=configure_optimizers)
    with pytest.raises(
        ConfigurationError, match=r"returned 2 optimizers; .* automatic_optimization = False"
    ):
        make_trainer().fit(module, boring.loader())


def test_no_optimizer_changes_nothing(boring, make_trainer):
    module = boring.regression(configure_optimizers=lambda self: None)
    before = boring.weights(module)
    trainer = make_trainer()
    trainer.fit(module, boring.loader())
    assert boring.difference(before, boring.weights(module)) == 0.0
    assert (trainer.global_step, trainer.progress.batches) == (0, 5)


def test_a_missing_metric_is_an_error_or_passed_over(boring, make_trainer):
    def fit(strict):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            watched = {
                "scheduler": ReduceLROnPlateau(optimizer),
                "monitor": "nothing",
                "strict": strict,
            }
            return {"optimizer": optimizer, "lr_scheduler": watched}

        module = boring.regression(configure_optimizers=configure_optimizers)
        make_trainer().fit(module, boring.loader())

    fit(strict=False)
    with pytest.raises(
        ConfigurationError, match="watches 'nothing', which has not been logged; logged: loss"
    ):
        fit(strict=True)


def test_an_own_optimizer_step_may_skip_updates(boring, make_trainer):
    calls = []

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        calls.append((epoch, batch_idx))
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()

    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((boring.weights(pl_module), trainer.global_step, float(outputs["loss"])))

    module = boring.regression(optimizer_step=optimizer_step)
    seen.append((boring.weights(module), 0, 0.0))
    make_trainer(callbacks=Watch(), max_epochs=2).fit(module, boring.loader())
    assert calls == [(epoch, i) for epoch in range(2) for i in range(5)]
    moved = [boring.difference(a[0], b[0]) > 0 for a, b in pairwise(seen)]
    assert moved == [False, True, False, True, False] * 2
    assert [step for _, step, _ in seen] == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


def test_an_own_optimizer_step_that_does_nothing_leaves_no_outputs(boring, make_trainer):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if batch_idx == 1:
            optimizer.step(closure=optimizer_closure)

    outputs = []
    module = boring.regression(
        optimizer_step=optimizer_step,
        on_train_batch_end=lambda self, out, batch, i: outputs.append(out == {}),
    )
    trainer = make_trainer()
    trainer.fit(module, boring.loader())
    assert (outputs, trainer.global_step) == ([True, False, True, True, True], 1)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}], ids=str
)
def test_an_own_optimizer_step_that_does_the_usual_equals_none(boring, make_trainer, options):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)

    one, other = boring.regression(optimizer_step=optimizer_step), boring.regression()
    for module in (one, other):
        make_trainer(max_epochs=3, **options).fit(module, boring.loader())
    assert boring.difference(boring.weights(one), boring.weights(other)) == 0.0


def lbfgs(self):
    return torch.optim.LBFGS(self.parameters(), max_iter=4)


def test_lbfgs_equals_a_raw_loop(boring, make_trainer):
    module = boring.regression(configure_optimizers=lbfgs)
    make_trainer(precision="64-true", max_epochs=2).fit(module, boring.loader())
    raw = boring.regression().double()
    optimizer = lbfgs(raw)
    for _ in range(2):
        for batch in boring.loader():

            def closure(batch=batch):
                optimizer.zero_grad()
                x, y = batch
                loss = nn.functional.mse_loss(raw(x.double()), y.double())
                loss.backward()
                return loss

            optimizer.step(closure)
    assert boring.difference(boring.weights(module), boring.weights(raw)) <= 1e-12


def test_lbfgs_with_accumulation_is_refused(boring, make_trainer):
    trainer = make_trainer(accumulate_grad_batches=2)
    message = (
        "accumulate_grad_batches=2 with LBFGS, .* take larger batches and accumulate_grad_batches=1"
    )
    with pytest.raises(ConfigurationError, match=message):
        trainer.fit(boring.regression(configure_optimizers=lbfgs), boring.loader())
