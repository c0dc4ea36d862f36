"""One seed for every generator that a run draws from."""

from __future__ import annotations

import os
import random
import sys

import torch

from torchrelay.errors import ConfigurationError

SEED_VARIABLE = "TORCHRELAY_SEED"


def seed_everything(seed: int) -> int:
    """Seed Python's, NumPy's (if it is loaded) and torch's generators, on all devices.

    The seed is also left in the environment variable TORCHRELAY_SEED, for launched processes and for the order in
    which ranks share shuffled data.

    Args:
        seed: 0 to 2**32 - 1.

    Returns:
        The seed.

    Raises:
        ConfigurationError: it is out of range.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigurationError(
            f"seed_everything({seed!r}): must be a whole number from 0 to 2**32 - 1"
        )
    os.environ[SEED_VARIABLE] = str(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    torch.manual_seed(seed)
    return seed


def current_seed() -> int:
    """The seed that was set last, here or in the process that launched this one; 0 if none was."""
    return int(os.environ.get(SEED_VARIABLE, "0"))
