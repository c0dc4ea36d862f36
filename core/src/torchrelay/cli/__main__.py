"""`python -m torchrelay.cli`: the `torchrelay` command, of this very interpreter."""

from __future__ import annotations

import sys

from torchrelay.cli import main

sys.exit(main())
