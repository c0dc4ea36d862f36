"""What a scheduler or another launcher may have left in the environment of tests, no part of their programs' runs."""

from __future__ import annotations

LAUNCHERS = (
    "SLURM_",
    "LSB_",
    "JSM_",
    "OMPI_",
    "PMI",
    "MV2_",
    "TORCHELASTIC_",
    "HOROVOD_",
    "KUBERNETES_",
)
"""What the names of their variables begin with."""
