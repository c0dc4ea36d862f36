"""Data that is prepared once, set up in every process, and a model that is made there."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.timeout(150)


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 2), ("ddp_spawn", 1), ("ddp_fork", 1)])
def test_one_process_prepares_and_all_set_up(programs, strategy, ranks):
    results = programs.train("data_module.py", strategy, ranks=ranks)
    assert (programs.folder / "prepared.log").read_text() == "0\n"
    for rank in range(2):
        assert (programs.folder / f"setup-{rank}").read_text() == "fit"
    torch.manual_seed(1)
    initial = torch.nn.Linear(*reversed(results[0]["state"]["layer.weight"].shape))
    for result in results:
        assert result["steps"] > 0
        assert set(result["state"]) == {"layer.weight", "layer.bias"}
        assert torch.equal(result["state"]["layer.weight"], results[0]["state"]["layer.weight"])
        assert not torch.equal(result["state"]["layer.weight"].float(), initial.weight)
