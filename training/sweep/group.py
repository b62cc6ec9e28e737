"""Multilayer perceptrons trained side by side on the same batches."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.training.batches import Batches
from clip2clap.training.checkpoint import flatten, part_of
from clip2clap.training.config import TrainingConfig
from clip2clap.training.networks import new_network
from clip2clap.training.splits import TrainingData
from clip2clap.training.sweep.stacked import Lone, Member, Stack
from clip2clap.training.trainer_state import computes_in_bf16
from clip2clap.training.validation import HeldOut
from clip2clap.translator.mlp import MLPTranslator

# Pairs that a network is trained on before another has its turn: long enough for its weights to be
# in the CPU's cache most of the time, short enough for a moving progress bar.
_STRETCH = 4_096

# Function of a stack; and the one that starts it for all stacks.
Work = Callable[[Stack], None]
Start = Callable[[Work], list[Future[None]]]


class Group:
    """Resumable training of models together: the same pairs, in the same batches.

    On a GPU models of one width and schedule are stacked: they are trained as one batched
    computation (`torch.func`), and a model that stops leaves its stack. A CPU would gain nothing
    from that: there every model is trained alone by `Lone`, as many at a time as torch has threads
    (see `benchmarks/training.py`).

    Args:
        data: Training data.
        members: The models; their `batch_size` and `seed` agree.
        device: Device to train on.
        batched: Stack the models; by default on all devices but CPUs.
        on_step: Called every few thousand pairs with the share of the epochs that is done.
        on_epoch: Called after every epoch with the models that were trained in it.
    """

    def __init__(
        self,
        data: TrainingData,
        members: Sequence[Member],
        device: torch.device,
        *,
        batched: bool | None = None,
        on_step: Callable[[int, float], None] | None = None,
        on_epoch: Callable[[Sequence[Member]], None] | None = None,
    ):
        self.members, self.on_step, self.on_epoch = list(members), on_step, on_epoch
        self.batched = device.type != "cpu" if batched is None else batched
        self.batches = Batches.of(data, members[0].config, device)
        needs_bank = any(member.loss.needs_bank for member in members)
        self.bank = self.batches.bank() if needs_bank else None
        self.held_out = HeldOut(data, needs_bank, device)
        self.resumed_after: int | None = None
        self.networks: dict[str, MLPTranslator] = {}
        for member in members:
            network = new_network(data, member.config, self.batches)
            self.networks[member.name] = network.to(device)
            member.loss.to(device)
        stacks: dict[Any, list[Member]] = {}
        # The widest first, so that no thread waits long for another at the end of a stretch.
        for member in sorted(members, key=lambda member: -member.config.hidden_size):
            key = _stack_key(member.config) if self.batched else member.name
            stacks.setdefault(key, []).append(member)
        self.stacks = [self._stack(stack) for stack in stacks.values()]

    @property
    def is_over(self) -> bool:
        """True when every model has stopped."""
        return not self.stacks

    @property
    def running(self) -> list[Member]:
        """Models that are still trained."""
        return [member for stack in self.stacks for member in stack.members]

    def advance(self) -> None:
        """Train all running models for an epoch, and measure them."""
        began = time.monotonic()
        running = self.running
        number, steps = len(running[0].progress.history) + 1, self.batches.steps
        batches = self.batches.epoch(number)
        done = (number - 1) * steps
        stretch = max(1, _STRETCH // self.batches.batch_size)
        with self._side_by_side() as start:
            started = start(lambda stack: stack.begin(number))
            while part := list(islice(batches, stretch)):
                # Started before the last stretch is over, so that no thread waits for another.
                following = start(
                    lambda stack, part=part, at=done: stack.train(part, self.bank, at, steps)
                )
                _wait_for(started)
                self._show(len(running), done / steps)
                started = following
                done += len(part)
            _wait_for(started)
            self._show(len(running), number)
            _wait_for(start(self._measure))
        spent = (time.monotonic() - began) / len(running)
        for member in running:
            member.progress.seconds += spent
        self._remove_finished()
        if self.on_epoch is not None:
            self.on_epoch(running)

    def translator(self, member: Member) -> MLPTranslator:
        """Return a model's translator of its best epoch, on the CPU."""
        network = self.networks[member.name].to("cpu")
        # Weights that a `Lone` has put into one tensor are separated again.
        network.load_state_dict(member.progress.best_weights, assign=True)
        return network.eval()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and all plain values, for a checkpoint."""
        parts = {f"best/{member.name}": member.progress.best_weights for member in self.members}
        parts |= {f"stack/{number}": stack.state() for number, stack in enumerate(self.stacks)}
        values = {
            "stacks": [[member.name for member in stack.members] for stack in self.stacks],
            "members": {member.name: member.progress.state() for member in self.members},
            "errors": {member.name: member.error for member in self.members},
        }
        return flatten(parts), values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load what `state` returned."""
        for member in self.members:
            best = part_of(tensors, f"best/{member.name}")
            member.progress.restore(values["members"][member.name], best)
            member.error = values["errors"][member.name]
        by_name = {member.name: member for member in self.members}
        self.stacks = []
        for number, names in enumerate(values["stacks"]):
            stack = self._stack([by_name[name] for name in names])
            stack.restore(part_of(tensors, f"stack/{number}"))
            self.stacks.append(stack)
        self.resumed_after = max(len(member.progress.history) for member in self.members)

    def _show(self, running: int, epochs: float) -> None:
        if self.on_step is not None:
            self.on_step(running, epochs / max(member.config.epochs for member in self.members))

    def _stack(self, members: Sequence[Member]) -> Stack:
        networks = [self.networks[member.name] for member in members]
        device = networks[0].device
        is_lone = not (
            self.batched or device.type != "cpu" or computes_in_bf16(members[0].config, device)
        )
        return (Lone if is_lone else Stack)(members, networks)

    @contextmanager
    def _side_by_side(self) -> Iterator[Start]:
        """Run functions of all stacks at once, each on its share of torch's threads.

        Stacks on a GPU take turns.
        """
        threads = torch.get_num_threads()
        workers = 1 if self.batched else min(threads, len(self.stacks))
        last: dict[Stack, Future[None]] = {}

        def after(before: Future[None] | None, work: Work, stack: Stack) -> None:
            if before is not None:
                before.result()
            work(stack)

        def start(work: Work) -> list[Future[None]]:
            for stack in self.stacks:
                last[stack] = pool.submit(after, last.get(stack), work, stack)
            return list(last.values())

        share = (threads // workers,)
        try:
            with ThreadPoolExecutor(workers, "", torch.set_num_threads, share) as pool:
                yield start
        finally:
            # Threads that are started later would inherit the workers' settings.
            torch.set_num_threads(threads)

    @torch.no_grad()
    def _measure(self, stack: Stack) -> None:
        """Measure the models of a stack on the held-out pairs."""
        for member, predicted, loss in zip(
            stack.members,
            stack.predict(self.held_out.source, None),
            stack.mean_losses(),
            strict=True,
        ):
            metrics = self.held_out.measure(predicted, member.loss, self.batches.batch_size)
            try:
                member.progress.add(loss, *metrics)
            except UserError as error:
                member.error = str(error)
            else:
                member.progress.keep_if_best(self.networks[member.name].state_dict)

    def _remove_finished(self) -> None:
        """Remove the models that have stopped from their stacks."""
        kept = []
        for stack in self.stacks:
            places = [i for i, member in enumerate(stack.members) if not member.is_over]
            if len(places) == len(stack.members):
                kept.append(stack)
            elif places:
                kept.append(stack.keep(places))
        self.stacks = kept


def _wait_for(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        future.result()


def _stack_key(config: TrainingConfig) -> tuple[Any, ...]:
    """Return the settings that models of one stack share, besides the pairs and their order."""
    names = ("hidden_size", "learning_rate", "schedule", "warmup", "epochs", "noise", "center")
    return tuple(getattr(config, name) for name in (*names, "precision"))
