"""The state of a DeepSpeed engine: what a strategy saves and loads, in the canonical form and in DeepSpeed's own."""

from __future__ import annotations

from torchrelay_deepspeed.loss_scale import load_loss_scale as load_loss_scale
from torchrelay_deepspeed.loss_scale import loss_scale_state as loss_scale_state
from torchrelay_deepspeed.native import load_native as load_native
from torchrelay_deepspeed.native import save_native as save_native
from torchrelay_deepspeed.optimizer_state import full_optimizer_state as full_optimizer_state
from torchrelay_deepspeed.optimizer_state import group_names as group_names
from torchrelay_deepspeed.optimizer_state import (
    load_full_optimizer_state as load_full_optimizer_state,
)
from torchrelay_deepspeed.optimizer_state import undo_first_step as undo_first_step
from torchrelay_deepspeed.weights import full_weights as full_weights
from torchrelay_deepspeed.weights import load_full_weights as load_full_weights
