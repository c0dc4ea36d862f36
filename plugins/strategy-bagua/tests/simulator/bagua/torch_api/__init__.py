"""What torch programs import of Bagua."""

from __future__ import annotations

from bagua.torch_api import algorithms as algorithms
from bagua.torch_api import communication as communication
from bagua.torch_api import data_parallel as data_parallel
from bagua.torch_api.communication import init_process_group as init_process_group
from bagua.torch_api.env import get_local_rank as get_local_rank
from bagua.torch_api.env import get_local_size as get_local_size
from bagua.torch_api.env import get_rank as get_rank
from bagua.torch_api.env import get_world_size as get_world_size
