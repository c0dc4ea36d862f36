"""What the algorithms do, one class each: what is in buckets, and what happens at which moment of a step."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from bagua.torch_api.communication import new_group

from bagua_simulated.bucket import Bucket, buckets_of
from bagua_simulated.compression import average_in_8_bits, compressed, restored
from bagua_simulated.machine import machine


def gradient(parameter):
    return parameter.grad


def put_gradient(parameter, value):
    parameter.grad = value


def itself(parameter):
    return parameter.data


class Implementation:
    """Does nothing at any moment."""

    def __init__(self, group):
        self.group, self.wires = group, group.wires

    def need_reset(self):
        return False

    def buckets(self, ddp):
        raise NotImplementedError

    def before_forward(self, ddp):
        pass

    def ready(self, ddp, name, parameter):
        pass

    def after_backward(self, ddp):
        pass

    def after_step(self, ddp, optimizer):
        pass


class Gradients(Implementation):
    """Buckets of gradients are combined as soon as they are whole, in order."""

    what = "parameter grad"

    def __init__(self, group, hierarchical, average):
        super().__init__(group)
        self.hierarchical, self.average = hierarchical, average

    def buckets(self, ddp):
        for _, each in ddp.registered:
            ensure_gradient(each)
        return buckets_of(
            ddp.registered,
            lambda group: Bucket(
                group, gradient, put_gradient, ddp.flatten, self.wires.everyone.size
            ),
        )

    def ready(self, ddp, name, parameter):
        machine.marked += 1
        for bucket in ddp.buckets:
            if name in bucket.parameters:
                bucket.check(name, parameter, self.what)
                bucket.missing.discard(name)

    def after_backward(self, ddp):
        for bucket in ddp.buckets:
            if bucket.missing:
                return  # and those after it: Bagua says nothing
            flat = bucket.together()
            self.combine(bucket, flat)
            machine.events.append("reduced")
            bucket.put_back(flat)
            bucket.missing = set(bucket.parameters)

    def combine(self, bucket, flat):
        def exactly(wire, flat):
            wire.reduce(flat, "AVG" if self.average else "SUM")

        self.wires.combine(flat, self.hierarchical, self.average, exactly)


class Bytes(Gradients):
    """The same in 8 bits."""

    def combine(self, bucket, flat):
        self.wires.combine(
            flat,
            self.hierarchical,
            self.average,
            lambda wire, flat: average_in_8_bits(wire, flat, self.average),
        )


class Weights(Implementation):
    """One bucket of the weights themselves."""

    def __init__(self, group, hierarchical, interval):
        super().__init__(group)
        self.hierarchical, self.interval = hierarchical, interval

    def buckets(self, ddp):
        return [Bucket(list(reversed(ddp.registered)), itself, None, ddp.flatten)]

    def due(self, ddp):
        return (ddp.counter - 1) % self.interval == 0


class Peers(Weights):
    """Averages with peers while gradients are computed, and puts the average in the weights' place after them."""

    def __init__(self, group, hierarchical, mode, interval):
        super().__init__(group, hierarchical, interval)
        self.mode, self.times, self.peer = mode, 0, None

    def before_forward(self, ddp):
        if self.due(ddp):
            self.peer = ddp.buckets[0].together().clone()
            self.wires.combine(self.peer, self.hierarchical, True, self._meet)

    def _meet(self, wire, flat):
        if self.mode == "all":
            wire.reduce(flat, "AVG")
            return
        assert wire.size % 2 == 0, f"simulated: {wire.size} ranks cannot be paired"
        half = wire.size // 2
        below, above = (
            (self.times + wire.rank) % half + half,
            (wire.rank - half - self.times) % half,
        )
        peer = below if wire.rank < half else above
        flat.add_(wire.exchanged(flat)[peer]).div_(2)
        self.times += 1

    def after_backward(self, ddp):
        if self.due(ddp):
            (bucket,) = ddp.buckets
            flat = bucket.together()
            flat.copy_(self.peer)
            bucket.put_back(flat)


class Ring(Weights):
    """After a step, differences go to the two neighbors in 8 bits; each keeps replicas of their weights."""

    def buckets(self, ddp):
        stepped = {
            id(p) for o in ddp.optimizers for group in o.param_groups for p in group["params"]
        }
        for name, each in ddp.registered:
            if id(each) not in stepped:
                raise RuntimeError(f"simulated: parameter {name} is not used by the optimizers")
        (bucket,) = super().buckets(ddp)
        self.mine, self.left, self.right = (bucket.together().clone() for _ in range(3))
        return [bucket]

    def after_step(self, ddp, optimizer):
        if self.due(ddp):
            (bucket,) = ddp.buckets
            flat = bucket.together()
            self.wires.combine(flat, self.hierarchical, True, self._exchange)
            bucket.put_back(flat)

    def _exchange(self, wire, flat):
        apart = flat + self.left / 3 + self.right / 3 - self.mine * 5 / 3
        ends, levels = compressed(apart)
        others = [
            restored(each[:8].clone().view(torch.float32), each[8:])
            for each in wire.exchanged(torch.cat([ends.view(torch.uint8), levels]))
        ]
        self.left += others[(wire.rank - 1) % wire.size]
        self.right += others[(wire.rank + 1) % wire.size]
        self.mine += others[wire.rank]
        flat.copy_(self.mine)


class Background(Implementation):
    """Averages weights in a thread, which the forward pass starts and `abort` ends; the model is locked meanwhile."""

    NEW, SCHEDULED, STARTED, STOPPED = range(4)

    def __init__(self, group, mode, interval, warmup):
        super().__init__(group)
        self.interval, self.warmup, self.step = interval / 1000, warmup, 0
        self.warming = Gradients(group, False, True)
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.begun, self.status = threading.Event(), self.NEW
        self.lock, self.aborted, self.ended = threading.Lock(), False, False
        self.apart = new_group(group.ranks).wires

    def need_reset(self):
        self.step += 1
        return self.warmup > 0 and self.step == self.warmup + 1

    def buckets(self, ddp):
        assert ddp.flatten, "simulated: the algorithm supports do_flatten=True only"
        if self.step < self.warmup:
            return self.warming.buckets(ddp)
        return [Bucket(list(reversed(ddp.registered)), itself, None, True)]

    def before_forward(self, ddp):
        if self.step <= self.warmup:
            return
        if self.status == self.NEW:
            self._schedule(ddp)
        elif self.status == self.SCHEDULED and self.future.running():
            self.begun.set()
            self.status = self.STARTED
        if not self.lock.acquire(timeout=3):
            raise RuntimeError(
                "simulated: the weights are locked by an earlier forward pass, for ever"
            )

    def ready(self, ddp, name, parameter):
        if self.step <= self.warmup:
            self.warming.ready(ddp, name, parameter)

    def after_backward(self, ddp):
        if self.step <= self.warmup:
            self.warming.after_backward(ddp)
        else:
            self.lock.release()

    def _schedule(self, ddp):
        self.future = self.thread.submit(self._run, ddp)
        self.status = self.SCHEDULED

    def _run(self, ddp):
        self.begun.wait()
        while not self.ended:
            self._average(ddp)
            time.sleep(self.interval)

    @torch.no_grad()
    def _average(self, ddp):
        wire, flag = self.apart.everyone, torch.tensor([int(self.aborted)])
        wire.broadcast(flag, 0)
        self.ended = bool(flag)
        if self.ended:
            return
        flat = ddp.buckets[0].flat
        before = flat.clone()
        total = before.clone()
        wire.reduce(total, "SUM")
        with self.lock:
            flat.add_(total / wire.size - before)
        machine.events.append("averaged")

    def resume_in(self, ddp):
        if self.status in (self.NEW, self.STOPPED):
            self.wires.everyone.reduce(torch.ones(1), "SUM")
            self.aborted = False
            machine.events.append("resumed")
            self._schedule(ddp)

    def abort_in(self, ddp):
        if self.status in (self.SCHEDULED, self.STARTED):
            self.wires.everyone.reduce(torch.ones(1), "SUM")
            self.aborted = True
            machine.events.append("aborted")
            self.begun.set()
            self.future.result()
            self.status = self.STOPPED


class Momentum(Bytes):
    """Gradients while warming up, then the momentum, which is updated here and averaged in 8 bits."""

    def __init__(self, group, optimizer, hierarchical):
        super().__init__(group, hierarchical, True)
        self.optimizer = optimizer

    @property
    def step(self):
        return self.optimizer.state[self.optimizer.param_groups[0]["params"][0]].get("step", 0)

    @property
    def warming(self):
        return self.step < self.optimizer.warmup_steps

    @property
    def what(self):
        return "grad, warming up" if self.warming else "momentum"

    def need_reset(self):
        return self.step == self.optimizer.warmup_steps

    def _momentum(self, parameter):
        return self.optimizer.state[parameter]["exp_avg"]

    def _put_momentum(self, parameter, value):
        self.optimizer.state[parameter]["exp_avg"] = value

    def buckets(self, ddp):
        if self.warming:
            return super().buckets(ddp)
        for _, each in ddp.registered:
            ensure_gradient(each)
        return buckets_of(
            ddp.registered,
            lambda group: Bucket(
                group, self._momentum, self._put_momentum, ddp.flatten, self.wires.everyone.size
            ),
        )

    def ready(self, ddp, name, parameter):
        # A bucket that was made before the warm-up ended has gradients in it.
        of_gradients = [bucket.get is gradient for bucket in ddp.buckets]
        assert of_gradients == [self.warming] * len(of_gradients), (
            "simulated: bagua backend tensor data_ptr should match momentum data_ptr"
        )
        super().ready(ddp, name, parameter)

    @torch.no_grad()
    def combine(self, bucket, flat):
        if self.warming:
            self.wires.everyone.reduce(flat, "AVG")
            return
        beta, _ = self.optimizer.param_groups[0]["betas"]
        for each in bucket.parameters.values():
            self._momentum(each).mul_(beta).add_(each.grad, alpha=1 - beta)
        flat.copy_(bucket.together())
        super().combine(bucket, flat)


def ensure_gradient(parameter):
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
