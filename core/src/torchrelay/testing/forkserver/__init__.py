"""A fork server: programs start as copies of a process that has imported torch already.

An interpreter takes more than a second to import torch, a copy of one that has done so some hundredths. A started
program is otherwise what `subprocess.Popen` would have started: a child of the caller, with its own session, process
group, environment, working directory, standard streams, signals and exit status, and its interpreter ends as any other
does. Programs that it starts by `subprocess` itself, such as the other ranks of a run, are copies too::

    with ForkServer() as server:
        process = server.popen([sys.executable, "train.py"], stdout=subprocess.PIPE, start_new_session=True)

What differs: the start itself (`-X importtime`, which modules are loaded, memory that is shared with the server,
`/proc/PID/cmdline` and `environ`), and that all copies of a server hash strings alike. What tests these things, or how
processes are launched, takes real interpreters, by `subprocess.Popen`.

Needs Linux; elsewhere `popen` is `subprocess.Popen`, and programs take longer to start.
"""

from __future__ import annotations

from torchrelay.testing.forkserver.client import PRELOAD as PRELOAD
from torchrelay.testing.forkserver.client import ForkServer as ForkServer
from torchrelay.testing.forkserver.client import ForkServerError as ForkServerError
from torchrelay.testing.forkserver.client import shared_server as shared_server
