"""Training, evaluation and prediction on the simulator arrive where the processor does; the rest is refused."""

from __future__ import annotations

import hpu_rules as rules
import pytest
import torch

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("check", rules.CHECKS, ids=lambda check: check.__name__)
def test_rule(check):
    check()


class Told(rules.Dropped):
    """Sees the checkpoint, which is read before the module is adopted then."""

    def on_load_checkpoint(self, checkpoint):
        self.notes["told"] = sorted(checkpoint)


def drawn(made):
    """Where training ends whose dropout draws from a seed."""
    torch.hpu.manual_seed_all(5)
    return rules.fitted(made, rules.Dropped())


@pytest.fixture
def elsewhere(tmp_path):
    """A checkpoint with a random state that is not the device's."""
    torch.hpu.manual_seed_all(3)
    made = rules.trainer(max_steps=3)
    made.fit(rules.Dropped(), rules.data())
    made.save_checkpoint(tmp_path / "half.ckpt")
    return str(tmp_path / "half.ckpt")


def test_a_checkpoint_that_was_evaluated_leaves_no_random_state(elsewhere):
    expected = drawn(rules.trainer())
    made = rules.trainer()
    made.validate(rules.Dropped(), rules.data(), ckpt_path=elsewhere)
    assert rules.apart(drawn(made), expected) == 0


@pytest.mark.parametrize("kind", [rules.Dropped, Told])
def test_training_goes_on_from_the_random_state_that_it_reads(elsewhere, kind):
    torch.hpu.manual_seed_all(3)
    whole = rules.fitted(rules.trainer(max_steps=6), kind())
    torch.hpu.manual_seed_all(99)
    made = rules.trainer(max_steps=6)
    assert rules.apart(rules.fitted(made, kind(), ckpt_path=elsewhere), whole) <= rules.NEAR
