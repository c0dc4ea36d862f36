"""A strategy is made of parts that are all there, can be replaced, and need no Trainer."""

from __future__ import annotations

from torchrelay.plugin.specs import Capability
from torchrelay.testing.case import Case
from torchrelay.testing.checks import Program, check, expect, skip
from torchrelay.testing.comparing import difference

COMPOSE = Program("torchrelay.testing.composition_facts:compose")

KINDS = {
    "accelerator": "Accelerator",
    "precision_plugin": "Precision",
    "checkpoint_io": "CheckpointIO",
    "cluster_environment": "ClusterEnvironment",
    "collectives": "Collectives",
    "launcher": "Launcher",
}
OPTIONAL = {"launcher"}


@check(
    why="callbacks, loggers and users reach for a strategy's parts, whatever the strategy",
    advice="let Composed.bind fill the parts; give default_collectives and default_launcher what they should return",
    program=COMPOSE,
)
def has_its_parts(case: Case) -> None:
    """Each part is of its kind; a launcher may be None."""
    for name, kinds in case.outcome.read("parts").items():
        there = KINDS[name] in kinds or (not kinds and name in OPTIONAL)
        seen = f"is a {kinds[0]}, which is no {KINDS[name]}" if kinds else "is not there"
        expect(there, f"the strategy's {name} {seen}")


@check(
    why="a user who gives a strategy an accelerator, a precision or collectives wants these and no others",
    advice="take the components by keyword, hand them to super().__init__, and do not override bind",
    program=COMPOSE,
)
def takes_parts_of_the_user(case: Case) -> None:
    """Each part in turn is given to the constructor, and looked for after bind."""
    for name, problem in case.outcome.read("refused").items():
        expect(not problem, f"given {name}=..., {problem}")


@check(
    why="samplers, files and logs go by ranks, so the strategy, its collectives and its environment must agree on them",
    advice="derive from ParallelStrategy, or take ranks and world size from one place",
    program=COMPOSE,
)
def knows_its_ranks(case: Case) -> None:
    """The ranks that each process sees."""
    n = case.ranks
    for rank, seen in enumerate(case.results("ranks")):
        expected = {
            "rank": rank,
            "world_size": n,
            "collectives": (rank, n),
            "is_global_zero": rank == 0,
        }
        problem = difference({name: seen[name] for name in expected}, expected)
        expect(not problem, f"process {rank} of {n}: {problem}")
        sampler = seen["sampler"]
        if n > 1 and sampler is not None:
            fits = sampler["rank"] in range(sampler["num_replicas"])
            expect(fits, f"process {rank}: sampler_arguments {sampler}")


@check(
    why="the strategy is a library of its own: loops of users, and tests, drive it as the Trainer does",
    advice="take what a strategy must know from the arguments of its methods; never from module.trainer",
    program=COMPOSE,
)
def needs_no_trainer(case: Case) -> None:
    """A loop of the kit's own trains, and no attribute holds a Trainer."""
    holds = case.outcome.read("trainers")
    expect(not holds, f"the strategy keeps a Trainer in {', '.join(holds)}")
    for rank, got in enumerate(case.results("drive")):
        expect(isinstance(got, dict), f"without a Trainer, rank {rank} fails: {got}")
        if rank == 0:
            same = not difference(got["after"], got["before"])
            expect(not same, "without a Trainer, training leaves the weights as they were")


@check(
    why="ranks, files and the rendezvous are other on several machines, which one machine does not show",
    advice="count machines in world_size and node_rank, and take both from the cluster environment",
    program=COMPOSE,
    capability=Capability.MULTIPLE_NODES,
)
def spans_machines(case: Case) -> None:
    """Where the subject is examined on several machines: they are told apart."""
    if case.subject.num_nodes == 1:
        skip("it is examined on one machine; start the kit on each, with --num-nodes, to see more")
    nodes = {seen["node_rank"] for seen in case.results("ranks")}
    expect(nodes == set(range(case.subject.num_nodes)), f"the ranks are on the machines {nodes}")
