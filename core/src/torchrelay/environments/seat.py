"""Seat: what a launcher tells a process that it starts, in one environment variable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from torchrelay.errors import LaunchError

VARIABLE = "TORCHRELAY_WORKER"


@dataclass(frozen=True)
class Seat:
    """One process's place in a run that torchrelay launched.

    Args:
        rank: among all processes of the run.
        local_rank: among those of its node.
        world_size: number of processes of the run.
        local_world_size: number of processes of the node.
        node_rank: the node among those of the run.
        address: host of the rendezvous store, which the launching process hosts.
        port: port of the store.
        parent_pid: process id of the launching process.
        report_dir: folder for the report of a failure.
        fingerprint: distribution -> version of the plugins that the launching process found.
        pid: the process that has sat down; None until then. Tells a worker from a process that it started
            itself, which inherits the variable.
        parent_is_rank_0: whether the launching process is one of the run's own, its rank 0.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    address: str
    port: int
    parent_pid: int
    report_dir: str
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    parent_is_rank_0: bool = False

    def to_json(self) -> str:
        """The seat as one line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Seat:
        """The seat that `to_json` wrote.

        Raises:
            LaunchError: it is not a seat.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise LaunchError(
                f"environment variable {VARIABLE} is torchrelay's own and does not hold what it "
                f"wrote ({error}); unset {VARIABLE}"
            ) from error

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Seat | None:
        """This process's seat, if one of torchrelay's launchers started it."""
        text = environ.get(VARIABLE)
        if not text:
            return None
        seat = cls.from_json(text)
        return seat if seat.pid in (None, os.getpid()) else None

    def taken_by(self, pid: int) -> Seat:
        """The same seat, with the process that has it."""
        return replace(self, pid=pid)

    def variables(self) -> dict[str, str]:
        """The environment variables of the process: the seat, and the usual ones that torch and others read."""
        return {
            VARIABLE: self.to_json(),
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "NODE_RANK": str(self.node_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }
