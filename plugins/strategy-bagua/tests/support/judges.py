"""What the scenarios' results have to be; each judge returns the figures that it has judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import scenarios
import torch
from bagua_simulated.compression import half_a_level
from scenarios import CPU, OPTIMIZERS, difference, loss_of

from torchrelay.testing.numerics_problems import Trained

PYTHONPATH = str(Path(__file__).parents[1] / "simulator")
NEAR = 1e-6
Found = dict[str, list[Any]]


def _expected(optimizer: Any, module: Any = Trained, **options: Any) -> dict[str, torch.Tensor]:
    """Where one process arrives, that reads whole batches."""
    return scenarios.train(CPU, module(optimizer), 2 * scenarios.BATCH, **options)


def gradient_allreduce_is_one_process(found: Found) -> dict[str, float]:
    figures = {}
    for name, optimizer in OPTIMIZERS.items():
        for what, options in ((name, {}), (f"{name}, windows", scenarios.WINDOWS)):
            expected = _expected(optimizer, **options)
            figures[what] = max(difference(rank[what], expected) for rank in found["exact"])
            assert figures[what] <= NEAR, (what, figures[what])
            assert difference(expected, Trained().state_dict()) > 0.01
    return figures


def manual_optimization_is_one_process(found: Found) -> dict[str, float]:
    expected = _expected(OPTIMIZERS["momentum"])
    apart = max(difference(rank["state"], expected) for rank in found["by_hand"])
    assert apart <= NEAR, apart
    return {"apart": apart}


def rank_0_gives_weights_and_buffers(found: Found) -> dict[str, float]:
    (one, statistics), (other, theirs) = found["sharing"]
    begun = scenarios.Apart()
    own = {n for n, p in begun.named_parameters() if p.requires_grad}
    started = begun.state_dict()
    apart = difference(
        *({n: v for n, v in each.items() if "frozen" not in n} for each in (one, started))
    )
    assert own < one.keys()
    assert apart == 0
    assert difference(one, other) == 0
    assert difference(statistics, theirs) == 0
    return {"apart": difference(one, other)}


def bytegrad_is_within_its_bound(found: Found) -> dict[str, float]:
    one, other = found["bytegrad"]
    exact = (one["own"] + other["own"]) / 2
    first = one["gradients"][0]
    apart = float((first - exact).abs().max())
    # Half a level of each rank's own gradients, then half a level of their average.
    own = (half_a_level(one["own"]) + half_a_level(other["own"])) / 2
    bound = own + half_a_level(exact + own * torch.sign(exact))
    assert 1e-5 < apart <= bound * (1 + 1e-4), (apart, bound)
    assert all(
        torch.equal(*pair) for pair in zip(one["gradients"], other["gradients"], strict=True)
    )
    assert difference(one["state"], other["state"]) == 0
    expected = _expected(scenarios.Trained().make_optimizer)
    whole = difference(one["state"], expected)
    assert 1e-6 < whole < 0.02, whole
    assert difference(one["hierarchical"], expected) < 0.02
    return {"a gradient is off by": apart, "at most": bound, "weights are off by": whole}


def options_do_what_they_say(found: Found) -> dict[str, float]:
    figures = {}
    for rank in found["options"]:
        for name in ("gradient_allreduce", "bytegrad"):
            mean, total = rank[name, True], rank[name, False]
            apart = float((total - 2 * mean).abs().max())
            # A level of 255 of the sum, where 8 bits round either.
            allowed = float(total.max() - total.min()) / 255 if name == "bytegrad" else NEAR
            assert float(mean.abs().max()) > 0.01
            assert apart <= allowed, (name, apart, allowed)
            flat, not_flat = (rank[name, "flatten", each] for each in (True, False))
            assert difference(flat, not_flat) <= NEAR
            figures |= {f"{name}: sum from twice the mean": apart}
    return figures


def _mean(ranks: list[Any]) -> dict[str, torch.Tensor]:
    return {name: (ranks[0][name] + ranks[1][name]) / 2 for name in ranks[0]}


def decentralized_ranks_part_and_agree_on_average(found: Found) -> dict[str, float]:
    figures = {}
    for kind in ("all", "shift_one", "hierarchical"):
        ranks = [rank[kind] for rank in found["decentralized"]]
        steps = list(zip(*(rank["steps"] for rank in ranks), strict=True))
        previous = None
        parted = []
        for one, other in steps:
            # The update is made from the average of what both had after the last one.
            assert difference(one["before"], other["before"]) <= NEAR
            if previous is not None:
                assert difference(one["before"], previous) <= NEAR
            for each in (one, other):
                step = {n: each["before"][n] - 0.05 * each["gradients"][n] for n in each["before"]}
                assert difference(each["after"], step) <= NEAR
            previous = _mean([one["after"], other["after"]])
            parted.append(difference(one["after"], other["after"]))
            assert difference(one["saved"], previous) <= NEAR
        assert min(parted) > 1e-4, parted
        assert difference(ranks[0]["end"], ranks[1]["end"]) == 0
        assert difference(ranks[0]["end"], previous) <= NEAR
        figures[f"{kind}: ranks part by"] = max(parted)
    return figures


def decentralized_heeds_its_interval(found: Found) -> dict[str, float]:
    steps = list(zip(*(rank["seldom"]["steps"] for rank in found["decentralized"]), strict=True))
    apart = [difference(one["before"], other["before"]) for one, other in steps]
    assert all((each <= NEAR) is (at % 3 == 0) for at, each in enumerate(apart)), apart
    return {"apart between averages": max(apart)}


def decentralized_windows_average_once(found: Found) -> dict[str, float]:
    steps = list(zip(*(rank["windows"]["steps"] for rank in found["decentralized"]), strict=True))
    for one, other in steps[1:]:
        assert difference(one["before"], other["before"]) <= NEAR
    return {"updates": len(steps)}


def low_precision_stays_near(found: Found) -> dict[str, float]:
    one, other = found["low_precision"]
    both = zip(one["steps"], other["steps"], strict=True)
    apart = [difference(first["after"], second["after"]) for first, second in both]
    begun, ended = loss_of(Trained().state_dict()), loss_of(one["state"])
    expected = loss_of(_expected(scenarios.Trained().make_optimizer, max_epochs=8))
    assert 0 < apart[-1] < apart[0] / 2 < 0.3, apart
    assert ended < 1.2 * expected + 0.01, (ended, expected)
    assert expected < 0.2 * begun
    return {"ranks part by": apart[-1], "loss": ended, "one process's": expected, "at first": begun}


def async_learns_the_digits(found: Found) -> dict[str, float]:
    figures = {}
    for kind in ("async", "warming"):
        one, other = (rank[kind] for rank in found["in_the_background"])
        assert difference(one["end"], other["end"]) == 0
        for rank in (one, other):
            assert rank["accuracy"] >= 0.93, rank["accuracy"]
            assert rank["events"]["averaged"] >= 5
            assert rank["events"].get("resumed") == rank["events"].get("aborted") == 1
        assert (one["events"].get("reduced", 0) > 0) is (kind == "warming")
        assert one["most_apart"] > 1e-4
        figures |= {
            f"{kind}: accuracy": one["accuracy"],
            f"{kind}: averages": one["events"]["averaged"],
            f"{kind}: ranks part by": one["most_apart"],
        }
    return figures


def qadam_warms_up_exactly_and_goes_on_in_8_bits(found: Found) -> dict[str, float]:
    warm = _expected(scenarios.ADAM, max_steps=scenarios.WARMUP - 1)
    one, other = found["qadam"]
    exact = max(difference(rank["warming"], warm) for rank in (one, other))
    assert exact <= NEAR, exact
    assert difference(one["state"], other["state"]) == 0
    begun, ended = loss_of(Trained().state_dict()), loss_of(one["state"])
    hierarchical = difference(one["state"], one["hierarchical"])
    assert ended < 0.75 * begun, (ended, begun)
    assert 0 < hierarchical < 0.2, hierarchical
    return {"warming up, off by": exact, "loss": ended, "at first": begun}


def collectives_combine_everything(found: Found) -> dict[str, float]:
    for rank in found["talking"]:
        talk = rank["talk"]
        for op in ("None", "avg", "mean"):
            assert talk[op].tolist() == [2.25, -3.0]
        assert talk["SUM"].tolist() == talk["torch's first"].tolist() == [4.5, -6.0]
        assert talk["min"].tolist() == [1.5, -4.0]
        assert talk["max"].tolist() == talk["torch"].tolist() == [3.0, -2.0]
        assert talk["product"].tolist() == [4.5, 8.0]
        assert talk["integers"].tolist() == [2**41 + 3, -5]
        assert talk["fraction"].tolist() == [0.5]
        assert talk["smallest"].tolist() == [2**40 + 1, -3]
        assert talk["flags"].tolist() == [True, False]
        assert talk["flags"].dtype == torch.bool
        assert talk["counted"].tolist() == [2, 1]
        assert talk["double"].tolist() == [1.0 + 2**-50]
        assert talk["bfloat16"].dtype == torch.bfloat16
        assert talk["bfloat16"].tolist() == talk["half"].tolist() == [2.25, -3.0]
        assert talk["small"].tolist() == [201]
        assert talk["complex"].tolist() == [0.5j]
        assert [each.tolist() for each in talk["bits"]] == [[4], [7], [3]]
        assert talk["number"] == 1.5
        assert talk["nested"]["a"][0] == 1
        assert talk["decided"] == (False, True)
        assert talk["object"]["rank"] == 1
        assert talk["object"]["tensor"].tolist() == [3.0, -4.0]
        assert talk["gathered"].dtype == torch.int16
        assert talk["objects"] == ["rank 0", "rank 1"]
        assert talk["empty"].numel() == 0
    return {}


def collectives_refuse_with_a_reason(found: Found) -> dict[str, float]:
    for rank in found["talking"]:
        bits, unknown, text = rank["refused"]
        assert all(word in bits for word in ("ConfigurationError", "'band'", "torch.float32"))
        assert all(
            word in unknown for word in ("ConfigurationError", "'median'", "product", "bxor")
        )
        assert "str" in text
    return {}


def each_rank_is_told_and_the_environment_put_back(found: Found) -> dict[str, float]:
    for number, rank in enumerate(found["talking"]):
        there = rank["environment"]
        assert (there["RANK"], there["LOCAL_RANK"]) == (str(number),) * 2
        assert (there["WORLD_SIZE"], there["LOCAL_WORLD_SIZE"], there["NODE_RANK"]) == (
            "2",
            "2",
            "0",
        )
        assert there["MASTER_ADDR"] == "127.0.0.1"
        assert rank["left"] == []
    return {}


JUDGES = [
    value
    for name, value in list(globals().items())
    if getattr(value, "__module__", "") == __name__
    and type(value).__name__ == "function"
    and not name.startswith("_")
]
