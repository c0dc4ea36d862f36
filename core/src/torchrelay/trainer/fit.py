"""Training, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.checkpoint import rng
from torchrelay.errors import CheckpointError, ConfigurationError
from torchrelay.module import LightningModule, is_overridden
from torchrelay.plugin.specs import Capability
from torchrelay.profilers.watching import watched, watched_items
from torchrelay.trainer.agreement import check_numbers, in_step
from torchrelay.trainer.evaluate import evaluate_portions
from torchrelay.trainer.finalizing import has_to_finalize
from torchrelay.trainer.followers import Followers
from torchrelay.trainer.optimizers import StrategyOptimizer
from torchrelay.trainer.outputs import loss_of, told
from torchrelay.trainer.session import Session
from torchrelay.trainer.settings import check_finite
from torchrelay.trainer.validation_schedule import ValidationSchedule


def fit(session: Session) -> None:
    """Train until an end is reached; the strategy is set up and the checkpoint restored."""
    loop = FitLoop(session)
    hooks, strategy = session.hooks, session.strategy
    epoch = watched(session.watcher, "run_training_epoch", loop.epoch)
    hooks.call("on_fit_start")
    loop.sanity_check()
    with session.entering("train"), strategy.stage("train"):
        hooks.call("on_train_start")
        while not loop.done():
            session.interruption.check()
            epoch()
        session.epoch_rng.continue_from_checkpoint()  # where nothing was left to train
        hooks.call("on_train_end")
    hooks.call("on_fit_end")
    session.interruption.finish()


class FitLoop:
    """The loop of training.

    A *window* is the micro-batches whose gradients make one update; only the last of them, the *boundary*,
    updates. `compute` makes gradients of one batch and `ready` makes them final, so that the user may put either
    into a closure of his own.

    Args:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.trainer = session.trainer
        self.module = session.module
        self.strategy = session.strategy
        self.progress = session.progress
        self.plan = session.plan
        self._open_data()
        self.take_up()
        self.optimizers = [
            StrategyOptimizer(optimizer, self.strategy, self.ready, self.count_update)
            for optimizer in self.strategy.optimizers
        ]
        self.trainer.driver_optimizers = self.optimizers
        self._listen()
        self.batch: Any = None
        self.batch_idx = 0
        self.in_window = 0
        self.at_boundary = True
        self.validated = False
        self.outputs: Any = None
        session.mid_window = lambda: self.in_window > 0

    def _open_data(self) -> None:
        """Take up this rank's part of the data, now or after loaders were made anew."""
        session = self.session
        self.data = session.loaders.training()
        check_numbers(self.strategy.collectives, self.data.number)
        session.epoch_batches = self.data.given
        self.validation = session.loaders.evaluation("validate") if self._validates() else []
        session.validates = bool(self.validation)
        given = None if self.data.number is None else self.data.number * session.combined
        self.schedule = ValidationSchedule(session.options, given) if self.validation else None

    def _validates(self) -> bool:
        own = is_overridden("validation_step", self.module, LightningModule)
        wanted = self.session.options.limit("validate") != 0
        return own and wanted and self.session.loaders.has("validate")

    def _listen(self) -> None:
        """Look up once what a step would otherwise ask at each step."""
        session, options, get = self.session, self.session.options, self.session.hooks.get
        self.on_batch_start = get("on_train_batch_start")
        self.on_batch_end = get("on_train_batch_end")
        self.on_before_backward = get("on_before_backward")
        self.on_after_backward = get("on_after_backward")
        self.on_before_zero_grad = get("on_before_zero_grad")
        self.on_before_optimizer_step = get("on_before_optimizer_step")
        self.manual = not self.module.automatic_optimization
        self.log_every = options.steps_to_log
        self.last_step = options.last_step
        self.interruption = session.interruption
        self.check_finite = options.detect_anomaly
        self.own_step = session.own("optimizer_step")
        self.own_zero_grad = session.own("optimizer_zero_grad")
        self.own_clipping = session.own("configure_gradient_clipping")
        self.followers = Followers(session)
        own_backward = session.own("backward")
        if own_backward is not None:
            self.strategy.backward_through = own_backward
        self.finalizes = has_to_finalize(self.strategy)
        clips = self.own_clipping is not None or self.plan.clip is not None
        listens = self.on_before_optimizer_step is not None
        self.gradients = self.closure if self.finalizes or listens or clips else self.compute
        self.move = session.mover()
        self.checkpointing = bool(self.trainer.checkpointers)

    # --- how long ---------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether an end is reached: epochs, updates, or somebody asked to stop and the minimum is behind."""
        options, progress = self.session.options, self.progress
        if options.limit("train") == 0:
            return True
        if progress.epoch >= options.last_epoch or progress.global_step >= options.last_step:
            return True
        return self.trainer.should_stop and self.minimum_reached()

    def minimum_reached(self) -> bool:
        """Whether `min_epochs` and `min_steps` allow an early end."""
        options = self.session.options
        epochs, steps = options.min_epochs or 0, options.min_steps or 0
        return self.progress.epoch >= epochs and self.progress.global_step >= steps

    # --- an epoch ---------------------------------------------------------------------------------------

    def epoch(self) -> None:
        """Train on every batch once, validate, step the schedulers, and offer to checkpoint."""
        self.session.epoch_rng.enter()
        self.reload()
        self.data.set_epoch(self.progress.epoch)
        self.session.hooks.call("on_train_epoch_start")
        self.plan = self.session.renew_plan()
        complete, empty = True, self.progress.batch == 0
        step = watched(self.session.watcher, "run_training_batch", self.step)
        inside = self.schedule is not None and self.schedule.inside
        batches: Any = self.batches()
        with closing(batches):  # the processes that load end here, whatever is raised
            if self.owes_validation():
                self.validate()
                complete = self.goes_on()
            for batch, last in batches if complete else ():
                empty = False
                if not step(batch, last):
                    # gradients of a window that was not finished belong to no update
                    self.in_window = 0
                    break
                if inside and not last and self.validates_now():
                    self.validate()
                if self.at_boundary and not self.goes_on(last):
                    complete = False
                    break
        self.batch = self.outputs = None  # they would keep data and a graph until the next fit
        if empty:
            raise ConfigurationError(
                f"the training data gave no batch in epoch {self.progress.epoch}; give a data loader that is not empty "
                "and can be read once an epoch, which an iterator cannot"
            )
        self.close_epoch(complete)

    def reload(self) -> None:
        """Ask for new loaders, in the epochs for which that was asked."""
        every, epoch = self.session.options.reload_dataloaders_every_n_epochs, self.progress.epoch
        if not every or not epoch or epoch % every or self.progress.batch:
            return
        for stage in ("train", "validate"):
            self.session.loaders.reload(stage)
        self._open_data()

    def goes_on(self, last: bool = False) -> bool:
        """Tell checkpointers of a boundary, and whether the epoch goes on after it."""
        if self.checkpointing:
            self.offer_checkpoint()
        if self.progress.global_step < self.last_step:
            self.interruption.check()
        return last or not self.stops()

    def take_up(self) -> None:
        """Go on from where a checkpoint was made.

        Raises:
            CheckpointError: that is inside an epoch which had another number of batches, as the number of ranks or the
                batch size has changed, so that the place has no meaning here.
        """
        was = self.session.resumed
        if was.get("should_stop") and not self.minimum_reached():
            self.trainer.should_stop = True  # somebody did, and it waits for the minimum
        self.data.resume_from(self.session.place, inside=bool(self.progress.batch))
        if not self.progress.batch or self.data.number is None:
            return
        if was.get("at_end"):
            self.progress.batch = self.data.number
        elif was.get("of") not in (None, self.data.given):
            raise CheckpointError(
                f"the checkpoint was made inside an epoch of {was['of']} batches, and an epoch has "
                f"{self.data.given} now; resume with as many ranks and the same batch size, or from a "
                "checkpoint made after an epoch"
            )

    def batches(self) -> Iterator[tuple[Any, bool]]:
        """The rest of the epoch's batches; after a resume, those that came before are drawn and dropped.

        The random state at the beginning of the epoch decides the order, so it is kept for checkpoints, and a
        resumed epoch begins from it before it takes up the state at which the checkpoint was made.
        """
        states, strategy = self.session.epoch_rng, self.strategy
        states.begin()
        batches = self.data.batches(self.progress.batch, states.continue_from_checkpoint)
        batches = watched_items(self.session.watcher, "train_dataloader_next", batches)
        if self.data.number is None and strategy.world_size > 1:
            return in_step(batches, strategy.collectives, strategy.root_device)
        return batches

    def stops(self) -> bool:
        """Whether to leave the epoch at this boundary."""
        if self.progress.global_step >= self.last_step:
            return True
        return self.trainer.should_stop and self.minimum_reached()

    def offer_checkpoint(self) -> None:
        """Tell checkpointers of the boundary, and of a validation that took place since the last one."""
        if self.validated:
            self.validated = False
            self.session.offer_checkpoint("validation")
        self.session.offer_checkpoint("step")

    def close_epoch(self, complete: bool) -> None:
        """End the epoch; one that was left early is not validated, and stays open for a resume."""
        session, progress = self.session, self.progress
        session.metrics.in_step = False
        session.train_metrics.close_epoch(reset=False)
        if complete:
            if session.followed_at != progress.batches:
                self.followers.follow_epoch(watching=False)
                session.followed_at = progress.batches
            if self.validates_now(last=True):
                self.validate()
        session.hooks.call("on_train_epoch_end")
        session.train_metrics.close_epoch()  # once more, for what that hook has logged
        session.send_epoch_metrics(session.train_metrics)
        session.tell_loggers("save")
        if complete:
            self.followers.follow_epoch(watching=True)
            progress.close_epoch()
            session.followed_at = session.validated_at = -1
        session.offer_checkpoint("epoch" if complete else "end")
        self.validated = False

    def validates_now(self, *, last: bool = False) -> bool:
        """Whether validation is due after this batch, or at the end of the epoch, and has not taken place."""
        schedule, progress = self.schedule, self.progress
        if schedule is None or self.session.validated_at == progress.batches:
            return False
        each = self.session.combined
        return schedule.due(
            progress.batch * each, progress.batches * each, progress.epoch, last=last
        )

    def owes_validation(self) -> bool:
        """Whether a run goes on from a checkpoint that was made before a validation which was due at that batch."""
        resumed, self.session.resumed = self.session.resumed, {}
        inside = self.progress.batch and not resumed.get("at_end") and self.schedule is not None
        return bool(inside) and resumed.get("validated") is False and self.validates_now()

    def validate(self) -> None:
        """Evaluate the validation data."""
        with self.interruption.validation():
            evaluate_portions(self.session, "validate", self.validation)
        self.validated = True

    def sanity_check(self) -> None:
        """Try a few validation batches before training, so that a mistake in validation costs no epoch."""
        steps = self.session.options.sanity_steps
        if not self.validation or not steps or self.progress.batches:
            return
        session, random_state = self.session, rng.capture()
        session.sanity_checking = True
        session.hooks.call("on_sanity_check_start")
        at_most = None if steps < 0 else steps
        with self.interruption.validation():
            evaluate_portions(session, "validate", self.validation, at_most)
        session.evaluation_metrics.clear()
        session.hooks.call("on_sanity_check_end")
        session.sanity_checking = False
        rng.restore(random_state)  # whether validation was tried first must not change the training

    # --- a batch ----------------------------------------------------------------------------------------

    def step(self, batch: Any, last: bool) -> bool:
        """Train on one batch; returns whether the epoch goes on, which `on_train_batch_start` may end."""
        progress = self.progress
        i, updates_before = progress.batch, progress.global_step
        if self.move is not None:
            batch = self.move(batch)
        self.session.train_metrics.begin(batch)
        if self.on_batch_start is not None and self.on_batch_start(batch, i) == -1:
            return False
        self.batch, self.batch_idx, self.outputs = batch, i, None
        self.at_boundary = self.manual or last or (i + 1) % self.plan.accumulate == 0
        if self.manual:
            self.outputs = self.strategy.training_step(batch, i)
        elif self.at_boundary:
            self.update()
            self.in_window = 0
        else:
            with self.strategy.accumulating():
                self.compute()
            self.in_window += 1
        progress.batch += 1
        progress.batches += 1
        if self.on_batch_end is not None:
            divisor = 1 if self.manual else self.plan.loss_divisor
            self.on_batch_end(told(self.outputs, divisor), batch, i)
        if progress.global_step // self.log_every > updates_before // self.log_every:
            self.session.send_step_metrics()
        return True

    def update(self) -> None:
        """Compute the boundary's gradients and update every optimizer."""
        if not self.optimizers:
            self.compute()
            return
        optimizer, updates_before = self.optimizers[0], self.progress.global_step
        if self.own_step is not None:
            self.own_step(self.progress.epoch, self.batch_idx, optimizer, self.compute)
        else:
            self.strategy.optimizer_step(optimizer.optimizer, self.gradients)
            self.progress.global_step += self.plan.updates
        if self.followers.of_updates:
            self.followers.follow_updates(updates_before)

    def closure(self) -> Any:
        """What an update needs first: gradients, made final."""
        loss = self.compute()
        self.ready(self.optimizers[0].optimizer)
        return loss

    def compute(self) -> torch.Tensor | None:
        """Forward and backward of the current batch; the first of a window clears the gradients before."""
        self.outputs = outputs = self.strategy.training_step(self.batch, self.batch_idx)
        if self.in_window == 0:
            self.zero_grad()
        loss = loss_of(outputs)
        if loss is None:
            self.strategy.require(Capability.SKIPPED_STEPS, "training_step returning None")
            return None
        if self.check_finite:
            check_finite(loss, self.progress.epoch, self.batch_idx, self.strategy.global_rank)
        if self.plan.loss_divisor != 1:
            loss = loss / self.plan.loss_divisor
        if self.on_before_backward is not None:
            self.on_before_backward(loss)
        self.strategy.backward(loss)
        if self.on_after_backward is not None:
            self.on_after_backward()
        return loss

    def zero_grad(self) -> None:
        """Clear the gradients of every optimizer."""
        for driver in self.optimizers:
            if self.on_before_zero_grad is not None:
                self.on_before_zero_grad(driver.optimizer)
            if self.own_zero_grad is not None:
                self.own_zero_grad(self.progress.epoch, self.batch_idx, driver)
            else:
                self.strategy.zero_grad(driver.optimizer)

    def ready(self, optimizer: Optimizer) -> None:
        """Make gradients what the update is to see: reduced, unscaled, seen by hooks, clipped."""
        if self.finalizes:
            self.strategy.finalize_gradients(optimizer)
        if self.on_before_optimizer_step is not None:
            self.on_before_optimizer_step(optimizer)
        if self.manual:
            return
        if self.own_clipping is not None:
            options = self.session.options
            self.own_clipping(optimizer, options.gradient_clip_val, options.gradient_clip_algorithm)
        elif self.plan.clip is not None:
            self.strategy.clip_gradients(optimizer, self.plan.clip)

    def count_update(self) -> None:
        """Count an update."""
        self.progress.global_step += self.plan.updates
