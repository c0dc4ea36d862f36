"""Whether a device is touched before replicas are launched, and what is said where one was.

python touched.py
"""

from __future__ import annotations

from problems import Regression, leave, loader, quiet

from torchrelay.errors import LaunchError
from torchrelay_tpu import vendor

if __name__ == "__main__":
    trainer = quiet(strategy="tpu_spawn", accelerator="tpu", devices=2)
    before = vendor.is_started()
    import torch_xla

    torch_xla.devices()
    try:
        trainer.fit(Regression(), loader())
        said = ""
    except LaunchError as error:
        said = str(error)
    leave("touched", (before, said))
