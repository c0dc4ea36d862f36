from __future__ import annotations

import threading

import pytest

from torchrelay.collectives.watching import Activity
from torchrelay.trainer.hang_report import Sighting, headline, judge, render, sight, stacks


def at(rank, kind="", title="", number=0, *, entered=0, seconds=9.0, **more) -> Sighting:
    return Sighting(
        rank=rank, kind=kind, title=title, number=number, entered=entered, seconds=seconds, **more
    )


def barrier(rank, number=5, **more) -> Sighting:
    return at(rank, "collective", "barrier 'x'", number, **more)


def reduce(rank, number=5, **more) -> Sighting:
    return at(rank, "collective", "reduce", number, **more)


def step(rank, **more) -> Sighting:
    return at(rank, "method", "training_step", 3, **{"entered": 7, **more})


def backward(rank, **more) -> Sighting:
    return at(rank, "method", "backward", 3, **{"entered": 8, **more})


CASES = {
    "one is in no collective": ([barrier(0), at(1)], 2, (1,), "rank 1 is not there: it is in no"),
    "one is in a method": ([barrier(0), step(1)], 2, (1,), "it is in training_step (call 3)"),
    "one skipped one": ([barrier(0), barrier(1), reduce(2)], 3, (2,), "it is in reduce"),
    "one did one more": ([barrier(0), reduce(1), reduce(2)], 3, (0,), "in barrier 'x'"),
    "two of two, and one waits longer": (
        [reduce(0, seconds=2.0), barrier(1)],
        2,
        (0,),
        "rank 0 is not there: it is in reduce (collective 5), while rank 1 waited 9 s in barrier 'x'",
    ),
    "the same, at another time": ([barrier(0, 5), barrier(1, 4), barrier(2, 5)], 3, (1,), ""),
    "one has not come so far": ([backward(0), step(1)], 2, (1,), "while rank 0 waited 9 s in"),
    "one is between methods": ([at(0, entered=7), backward(1)], 2, (0,), "in no method"),
    "one does not answer": ([barrier(0)], 2, (1,), "rank 1 does not answer"),
    "one has left": ([barrier(0), at(1, state="left")], 2, (1,), "rank 1 has finished"),
    "one has failed": ([backward(0), at(1, state="failed")], 2, (1,), "rank 1 has failed"),
    "all are there": ([barrier(0), barrier(1)], 2, (), "the network between them"),
}


@pytest.mark.parametrize("case", CASES)
def test_who_is_not_there(case):
    sightings, world_size, culprits, text = CASES[case]
    verdict = judge(sightings, world_size, 9)
    assert verdict.culprits == culprits
    assert text in headline(verdict)
    assert "\n" not in headline(verdict)


def test_where_ranks_parted_is_told():
    mine = barrier(0, history=[(4, "reduce"), (5, "barrier 'x'")])
    other = reduce(1, 6, history=[(4, "reduce"), (5, "broadcast"), (6, "reduce")], seconds=1.0)
    text = headline(judge([mine, other], 2, 9))
    assert text.endswith(
        "collective 5 was not the same on all: barrier 'x' on rank 0, broadcast on rank 1"
    )


def test_a_report_has_a_line_for_each_rank_and_equal_stacks_once():
    sightings = [barrier(rank, stacks="thread MainThread:\n  the same") for rank in range(3)]
    sightings.append(step(3, stacks="thread MainThread:\n  another", place="train.py:7 in f"))
    verdict = judge(sightings, 5, 9)
    text = render(sightings, verdict, 5, 9)
    assert text.count("  the same") == 1
    assert "--- stacks of ranks 0, 1, 2 ---" in text
    assert "* rank 4: does not answer" in text
    assert "in training_step (call 3) for 9.0 s, at train.py:7 in f" in text
    assert text.splitlines()[-1] == headline(verdict)


def test_this_process_says_where_it_is():
    activity, seen = Activity(), []
    activity.method("backward", lambda: seen.append(sight(3, activity, full=True)))()
    (mine,) = seen
    assert (mine.rank, mine.kind, mine.title, mine.number) == (3, "method", "backward", 1)
    assert (mine.entered, mine.state) == (1, "running")
    assert mine.place.startswith(f"{__file__}:")
    assert "watching.py" not in mine.stacks
    assert Sighting.of({**mine.note(), "beats": 3}) == mine
    assert sight(3, activity).where == "in no collective, and in no method of the strategy"


def test_stacks_are_those_of_all_threads_but_torchrelays():
    go = threading.Event()
    names = ("torchrelay-own", "the users")
    threads = [threading.Thread(target=go.wait, name=name) for name in names]
    for thread in threads:
        thread.start()
    try:
        text = stacks()
    finally:
        go.set()
        for thread in threads:
            thread.join()
    assert text.startswith("thread MainThread:\n")
    assert "test_stacks_are_those_of_all_threads" in text
    assert "thread the users:" in text
    assert "torchrelay-own" not in text
