"""The only module that imports Horovod, when a function here is called; its errors become torchrelay's."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch

from torchrelay.errors import ConfigurationError, LaunchError, TorchrelayError
from torchrelay_horovod.build import recipe
from torchrelay_horovod.plugin import BUILD

TESTED = "0.28.1"
"""Horovod's last release, of June 2023, and the one that was run."""

TYPES = frozenset({torch.int32, torch.int64, torch.float16, torch.float32, torch.float64})
"""What Horovod reduces as it is; the rest travels as another type, or as bytes."""

COMPRESSIONS = ("none", "fp16")

PATIENCE = 60.0
"""Seconds that ranks may come to a run after each other."""

_OPERATIONS = {"mean": "Sum", "sum": "Sum", "min": "Min", "max": "Max", "product": "Product"}


class RanksLostError(TorchrelayError):
    """A collective failed: as a rule because another rank, or the network, is gone."""


# --- what is installed ----------------------------------------------------------------------------------


def version() -> str | None:
    """Version of the installed Horovod; None if there is none."""
    try:
        return importlib.metadata.version("horovod")
    except importlib.metadata.PackageNotFoundError:
        return None


def examined() -> str | None:
    """Whether Horovod can be used with this torch: None, or what is wrong and the command that mends it."""
    found = version()
    if found is None:
        return f"Horovod is not installed, and has no wheels: {_build()}"
    if importlib.util.find_spec("horovod.torch.mpi_lib_v2") is None:
        return f"Horovod {found} is built without torch, as pip builds it by itself: {_build()}"
    try:
        hvd = _hvd()
    except ImportError as error:
        return (
            f"Horovod {found} was built for another torch than {torch.__version__} "
            f"({str(error).splitlines()[0]}): {_build()}"
        )
    if not (hvd.gloo_built() or hvd.mpi_built()):
        return f"Horovod {found} is built with neither gloo nor MPI: {_build()}"
    if found.partition("+")[0] != TESTED:
        return f"Horovod {found} is not the release that was run, {TESTED}: {_build()}"
    return None


def _build() -> str:
    """How Horovod is built, by one command or by hand."""
    return f"{BUILD}; by hand: {recipe().replace(chr(10), ' && ')}"


def gloo_built() -> bool:
    """Whether processes can meet without MPI, as those of horovodrun and of torchrelay do here."""
    return bool(_hvd().gloo_built())


def mpi_built() -> bool:
    """Whether Horovod is built with MPI."""
    return bool(_hvd().mpi_built())


def _hvd() -> Any:
    return import_module("horovod.torch.mpi_ops")


# --- process life ---------------------------------------------------------------------------------------


def is_started() -> bool:
    """Whether Horovod is connected in this process."""
    return bool(_hvd().is_initialized())


def start(process_sets: Sequence[Sequence[int]], variables: Mapping[str, str]) -> list[Any]:
    """Meet the other processes; returns a handle of each process set. Collective.

    Args:
        process_sets: global ranks of each.
        variables: environment variables that say where to meet, set meanwhile; none where a launcher has set them.

    Raises:
        LaunchError: the others cannot be met.
    """
    hvd = _hvd()
    try:
        made = [hvd.ProcessSet(list(ranks)) for ranks in process_sets]
        with _set(variables):
            hvd.init(process_sets=made)
    except (ValueError, RuntimeError) as error:
        raise LaunchError(
            f"Horovod did not meet the other processes ({str(error).splitlines()[0]}); see what it printed above, and "
            "that all of them run and reach each other over the network interface HOROVOD_GLOO_IFACE"
        ) from error
    return made


def place() -> tuple[int, int]:
    """This process's global rank and the number of processes."""
    hvd = _hvd()
    return int(hvd.rank()), int(hvd.size())


def variables_now() -> dict[str, str]:
    """Where this process is now, under the names of the variables that launched it."""
    hvd = _hvd()
    names = ("rank", "size", "local_rank", "local_size", "cross_rank", "cross_size")
    return {f"HOROVOD_{name.upper()}": str(getattr(hvd, name)()) for name in names}


def stop() -> None:
    """Part from the other processes."""
    _hvd().shutdown()


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- launching ------------------------------------------------------------------------------------------


class Rendezvous:
    """Horovod's server at which the processes of a run find each other; open until `close`."""

    def __init__(self) -> None:
        self._server = import_module("horovod.runner.http.http_server").RendezvousServer()
        self.port = int(self._server.start())

    def close(self) -> None:
        """Let go of the port."""
        self._server.stop()
        # Horovod, whose servers live as long as their process, leaves the socket open.
        self._server._httpd.server_close()  # noqa: SLF001


def variables_of(rank: int, processes: int, address: str, port: int) -> dict[str, str]:
    """What Horovod's launcher tells a process: its place, and where the rendezvous is.

    Args:
        rank: the process.
        processes: how many there are, all on this machine.
        address: of the rendezvous, on the loopback interface.
        port: of the rendezvous.
    """
    launcher = import_module("horovod.runner.gloo_run")
    hosts = import_module("horovod.runner.common.util.hosts")
    slots = hosts.get_host_assignments([hosts.HostInfo("localhost", processes)], processes)
    mine = launcher.create_slot_env_vars(slots[rank])
    there = launcher.create_run_env_vars(address, [loopback()], port)
    return {name: str(value) for name, value in {**mine, **there}.items()}


def rendezvous_at(address: str, port: int) -> dict[str, str]:
    """What tells a process that has its place where another rendezvous is."""
    return {"HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}


def address_of(interface: str) -> str:
    """This machine's address on a network interface."""
    return str(import_module("horovod.runner.util.network").get_driver_ip([interface]))


def post(server: str, key: str, text: str) -> None:
    """Leave a text with the server of horovodrun, `host:port`, under `scope/name`."""
    request = Request(f"http://{server}/{key}", data=text.encode(), method="PUT")
    with urlopen(request, timeout=PATIENCE):
        pass


def read(server: str, key: str) -> str:
    """The text that another process leaves there, once it has.

    Raises:
        LaunchError: it has not for a minute.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(URLError), urlopen(f"http://{server}/{key}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())
        time.sleep(0.02)
    raise LaunchError(
        f"rank 0 has not come to the same run within {PATIENCE:.0f} s; every rank must come to each fit"
    )


def loopback() -> str:
    """Name of this machine's loopback interface."""
    return str(next(iter(import_module("horovod.runner.util.network").get_local_intfs())))


def parse_launcher(arguments: Sequence[str]) -> Any:
    """What `horovodrun` makes of its arguments; it ends the process over those that it does not know."""
    with _arguments(arguments):
        return import_module("horovod.runner.launch").parse_args()


def run_launcher(arguments: Sequence[str]) -> None:
    """Be `horovodrun` with these arguments."""
    with _arguments(arguments):
        import_module("horovod.runner.launch").run_commandline()


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["horovodrun", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def discover(script: str, slots: int | None) -> list[str]:
    """The hosts that a discovery script finds."""
    discovery = import_module("horovod.runner.elastic.discovery")
    return list(discovery.HostDiscoveryScript(script, slots).find_available_hosts_and_slots())


def is_local(hosts: Sequence[str]) -> bool:
    """Whether all these names are this machine's."""
    return not import_module("horovod.runner.util.network").filter_local_addresses(list(hosts))


# --- elastic jobs ---------------------------------------------------------------------------------------


def listen_for_hosts(listener: Any) -> None:
    """Let `listener.on_hosts_updated(timestamp, result)` hear of hosts that come or go; on the coordinator alone."""
    manager = import_module("horovod.common.elastic").notification_manager
    manager.init()
    manager.register_listener(listener)


# --- collectives ----------------------------------------------------------------------------------------


def sum_of(op: str) -> Any:
    """Horovod's operation for one of torchrelay's; a mean is a sum, to be divided."""
    return getattr(_hvd(), _OPERATIONS[op])


def reduce_in_place(buffer: torch.Tensor, op: str, name: str, group: Any) -> None:
    """Combine a contiguous buffer of one of `TYPES`, in place. Collective.

    Raises:
        RanksLostError: here and below, as is
        ConfigurationError: ranks gave different shapes or types.
    """
    hvd = _hvd()
    _wait(lambda: hvd.allreduce_async_(buffer, op=sum_of(op), name=name, process_set=_group(group)))


class Averaging:
    """Averages tensors in place, some together, while others are computed; looks Horovod's functions up once.

    Args:
        predivide: by which a tensor is divided before the sum; the rest of the division comes after it.
    """

    def __init__(self, predivide: float) -> None:
        hvd = _hvd()
        self._begin, self._finish = hvd.grouped_allreduce_async_, hvd.synchronize
        self._options = (hvd.Average, 1.0 / predivide, predivide)
        self._lost = import_module("horovod.common.exceptions").HorovodInternalError

    def begin(self, tensors: list[torch.Tensor], name: str) -> int:
        """Begin with contiguous tensors of one of `TYPES`, not to be touched until `wait`; their handle. Collective.

        Args:
            tensors: of the same shapes and type on all ranks.
            name: the same on all ranks.
        """
        try:
            handle: int = self._begin(tensors, None, name, *self._options)
        except self._lost as error:
            raise _translated(error) from error
        return handle

    def wait(self, handle: int) -> Sequence[torch.Tensor]:
        """The tensors of a handle, when they are there."""
        try:
            tensors: Sequence[torch.Tensor] = self._finish(handle)
        except self._lost as error:
            raise _translated(error) from error
        return tensors


def gather(payload: torch.Tensor, name: str, group: Any) -> torch.Tensor:
    """The payloads (n,) of all ranks as rows (world_size, n), in rank order. Collective."""
    hvd, row = _hvd(), payload.unsqueeze(0)
    return _wait(lambda: hvd.allgather_async(row, name=name, process_set=_group(group)))


def broadcast_in_place(buffers: Mapping[str, torch.Tensor], src: int) -> None:
    """Give every rank rank `src`'s contiguous buffers of bytes, by name. Collective."""
    hvd = _hvd()
    with _told():
        handles = [hvd.broadcast_async_(buffer, src, name=name) for name, buffer in buffers.items()]
        for handle in handles:
            hvd.synchronize(handle)


def broadcast_object(value: Any, src: int, name: str, group: Any) -> Any:
    """Rank `src`'s object, which can be pickled, on every rank. Collective."""
    send = import_module("horovod.torch.functions").broadcast_object
    with _told(), _outside_inference():
        return send(value, src, name=name, process_set=_group(group))


def gather_objects(value: Any, name: str) -> list[Any]:
    """Every rank's object, which can be pickled, in rank order. Collective."""
    with _told(), _outside_inference():
        found: list[Any] = import_module("horovod.torch.functions").allgather_object(
            value, name=name
        )
    return found


def compression(name: str) -> Any:
    """Horovod's compression of that name: has `compress(tensor)` and `decompress(tensor, context)`."""
    return getattr(import_module("horovod.torch.compression").Compression, name)


def _group(group: Any) -> Any:
    return _hvd().global_process_set if group is None else group


def _wait(begin: Any) -> torch.Tensor:
    with _told(), _outside_inference():
        tensor: torch.Tensor = _hvd().synchronize(begin())
    return tensor


def _outside_inference() -> Any:
    """Horovod's thread, which is in no inference mode, gives a result its size, which it may not where this one is."""
    return torch.inference_mode(False)


@contextmanager
def _told() -> Iterator[None]:
    lost = import_module("horovod.common.exceptions").HorovodInternalError
    try:
        yield
    except lost as error:
        raise _translated(error) from error


def _translated(error: Exception) -> TorchrelayError:
    """Horovod raises one error for everything: ranks that are gone, and ranks that do not agree."""
    reason = " ".join(str(error).partition("Exception raised from")[0].split())
    if "Mismatched" in reason:
        return ConfigurationError(
            f"ranks gave tensors of other shapes or types to one collective: {reason}"
        )
    return RanksLostError(f"Horovod could not finish a collective: {reason}")
