"""Two processes on the simulated GPUs, carried by gloo: what each algorithm's numbers are."""

from __future__ import annotations

import judges
import pytest
import scenarios

pytestmark = pytest.mark.timeout(180)


# Several in each program, as one connection has to serve all runs of a process.
TOGETHER = (
    ("exact", "by_hand", "sharing", "talking"),
    ("bytegrad", "options", "decentralized", "low_precision"),
    ("in_the_background", "qadam"),
)


class Found(dict):
    """What the scenarios left, run when one of them is first asked for."""

    def __init__(self, shared):
        self.shared, self.failed = shared, set()

    def __missing__(self, name):
        names = next(each for each in TOGETHER if name in each)
        if names in self.failed:
            pytest.fail("the program failed, as another test shows", pytrace=False)
        self.failed.add(names)
        self.shared.train("ranks.py", *names, name=name, PYTHONPATH=judges.PYTHONPATH)
        self.update({each: self.shared.results(each) for each in names})
        return self[name]


@pytest.fixture(scope="module")
def found(shared):
    return Found(shared)


@pytest.mark.parametrize("judge", judges.JUDGES, ids=lambda judge: judge.__name__)
def test_what_the_documentation_says(found, judge, record_property):
    for name, figure in judge(found).items():
        record_property(name, figure)
        print(f"{judge.__name__}: {name}: {figure}")


def test_every_scenario_is_run():
    assert {name for names in TOGETHER for name in names} == set(scenarios.SCENARIOS)
