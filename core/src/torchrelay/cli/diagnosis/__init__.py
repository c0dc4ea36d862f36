"""What `torchrelay doctor` finds out: of each plugin, and of the machine."""

from __future__ import annotations
