"""horovodrun with what it needs for elastic jobs on one machine, where by itself it waits without an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchrelay.errors import ConfigurationError
from torchrelay_horovod import vendor

NAMES = ("localhost", "127.0.0.1")
"""Names of one machine. Horovod gives up a host whose process has failed, with all its processes; so each process that
others are to survive has a host of its own."""


def run(arguments: Sequence[str]) -> None:
    """Be `horovodrun` with these arguments, and what is missing among them."""
    vendor.run_launcher([*missing(vendor.parse_launcher(arguments)), *arguments])


def missing(asked: Any) -> list[str]:
    """The arguments that an elastic job on this machine lacks; none where nothing is.

    Without a named interface Horovod looks for one that two hosts share, and where there is one host it waits for
    another until `--elastic-timeout`, ten minutes, is over.

    Args:
        asked: what horovodrun makes of its arguments.

    Raises:
        ConfigurationError: an elastic job that could not begin, or not go on.
    """
    if asked.min_num_proc is None and asked.host_discovery_script is None:
        return []
    added: list[str] = []
    if asked.host_discovery_script is not None:
        hosts = vendor.discover(asked.host_discovery_script, asked.slots)
    elif asked.hosts or asked.hostfile:
        hosts = _named(asked)
    else:
        hosts = list(NAMES)
        added += ["--hosts", _spread(max(asked.num_proc, asked.max_num_proc or 0))]
    if asked.nics:
        return added
    if vendor.is_local(hosts):
        return [*added, "--network-interfaces", vendor.loopback()]
    if len(hosts) < 2:
        raise ConfigurationError(
            f"Horovod looks for a network interface that two hosts share, and there is only {hosts[0]}: it would wait "
            "for another; name the interface: --network-interfaces eth0"
        )
    return added


def _named(asked: Any) -> list[str]:
    """The hosts that are given, of which Horovod wants two."""
    hosts = [each.partition(":")[0] for each in (asked.hosts or "").split(",") if each]
    if asked.hosts and len(hosts) < 2:
        raise ConfigurationError(
            f"--hosts {asked.hosts} is one host, and Horovod gives up a host whose process has failed, so that nobody "
            f"would be left; on one machine write --hosts {_spread(max(asked.num_proc, 2))}"
        )
    return hosts


def _spread(processes: int) -> str:
    """Hosts for so many processes on this machine."""
    shares = [processes - processes // 2, processes // 2]
    named = zip(NAMES, shares, strict=True)
    return ",".join(f"{name}:{share}" for name, share in named if share)
