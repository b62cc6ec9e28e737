"""Perceptrons that see the same batches, trained side by side."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from clip2clap.embeddings import UserError
from clip2clap.training.batches import Batches, generator_for
from clip2clap.training.config import TrainingConfig
from clip2clap.training.course import Course, computes_in_bf16, learning_rate_at
from clip2clap.training.loop import HeldOut, add_noise, new_loss, new_network
from clip2clap.training.losses import TranslationLoss
from clip2clap.training.pairs import Pairs, Split
from clip2clap.translator import MLPTranslator

# A network goes through so many pairs before another may have its turn: long enough for its weights
# to be in the processor's cache most of the time, short enough for a moving progress bar.
_STRETCH = 4_096


@dataclass
class Member:
    """One model of a group."""

    name: str
    """What it is called."""

    config: TrainingConfig
    """Its settings, resolved."""

    course: Course = field(init=False)
    """Its figures so far, and its best weights."""

    loss: TranslationLoss = field(init=False)
    """Its loss."""

    error: str | None = None
    """Why it can't go on, if it diverged."""

    def __post_init__(self) -> None:
        self.course = Course(self.config)
        self.loss = new_loss(self.config)

    @property
    def is_over(self) -> bool:
        """Whether it is to be trained no more."""
        return self.error is not None or self.course.is_over


class Group:
    """Models that train together: the same pairs, in the same batches.

    On a GPU those of one width and one way of changing their inputs and weights are stacked: they
    take their steps as one batched computation (`torch.func`), and a model that stops leaves its
    stack. A processor would gain nothing from that: there every model goes its own way, as many at
    a time as torch has threads (see `benchmarks/training.py`).

    Args:
        pairs: What to train on.
        split: Which of them.
        members: The models; their `batch_size` and `seed` agree.
        device: Where to train.
        batched: Whether models are stacked; by default on all devices but processors.
    """

    def __init__(
        self,
        pairs: Pairs,
        split: Split,
        members: Sequence[Member],
        device: torch.device,
        *,
        batched: bool | None = None,
    ):
        first = members[0].config
        assert first.batch_size is not None
        self.members = list(members)
        self.batched = device.type != "cpu" if batched is None else batched
        self.batches = Batches(
            pairs, split.train, batch_size=first.batch_size, seed=first.seed, device=device
        )
        needs_bank = any(member.loss.needs_bank for member in members)
        self.bank = self.batches.bank() if needs_bank else None
        self.held_out = HeldOut(pairs, split, needs_bank, device)
        self.networks: dict[str, MLPTranslator] = {}
        for member in members:
            network = new_network(pairs, split, member.config, self.batches)
            assert isinstance(network, MLPTranslator)
            self.networks[member.name] = network.to(device)
            member.loss.to(device)
        stacks: dict[Any, list[Member]] = {}
        # The widest first, so that at the end of a stretch no thread waits long for another.
        for member in sorted(members, key=lambda member: -member.config.hidden):
            kind = _kind(member.config) if self.batched else member.name
            stacks.setdefault(kind, []).append(member)
        self.stacks = [self._stack(stack) for stack in stacks.values()]

    @property
    def is_over(self) -> bool:
        """Whether every model has stopped."""
        return not self.stacks

    def epoch(self, on_step: Callable[[int, int], None]) -> None:
        """Train all models that go on for an epoch, and measure them.

        Args:
            on_step: Called every few thousand pairs with the number of steps done and of all.
        """
        started = time.monotonic()
        going = [member for stack in self.stacks for member in stack.members]
        number, steps = len(going[0].course.history) + 1, self.batches.steps
        batches = self.batches.epoch(number)
        done = (number - 1) * steps
        stretch = max(1, _STRETCH // self.batches.batch_size)
        with self._one_after_another() if self.batched else self._side_by_side() as for_each:
            for_each(lambda stack: stack.begin(number))
            while part := list(islice(batches, stretch)):
                for_each(lambda stack, part=part, at=done: stack.train(part, self.bank, at, steps))
                done += len(part)
                on_step(done - (number - 1) * steps, steps)
            for_each(self._measure)
        spent = (time.monotonic() - started) / len(going)
        for member in going:
            member.course.seconds += spent
        self._let_go()

    def translator(self, member: Member) -> MLPTranslator:
        """Give a model's translator of its best epoch, on the CPU."""
        network = self.networks[member.name].to("cpu")
        network.load_state_dict(member.course.best_weights)
        return network.eval()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give all tensors and all plain values, for a checkpoint."""
        tensors = {
            f"best/{member.name}/{key}": weight
            for member in self.members
            for key, weight in member.course.best_weights.items()
        }
        for number, stack in enumerate(self.stacks):
            tensors |= {f"stack/{number}/{key}": value for key, value in stack.state().items()}
        plain = {
            "stacks": [[member.name for member in stack.members] for stack in self.stacks],
            "courses": {member.name: member.course.state() for member in self.members},
            "errors": {member.name: member.error for member in self.members},
        }
        return tensors, plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        for member in self.members:
            best = _below(tensors, f"best/{member.name}/")
            member.course.restore(plain["courses"][member.name], best)
            member.error = plain["errors"][member.name]
        by_name = {member.name: member for member in self.members}
        self.stacks = []
        for number, names in enumerate(plain["stacks"]):
            stack = self._stack([by_name[name] for name in names])
            stack.restore(_below(tensors, f"stack/{number}/"))
            self.stacks.append(stack)

    def _stack(self, members: Sequence[Member]) -> "Stack":
        return Stack(members, [self.networks[member.name] for member in members])

    @contextmanager
    def _one_after_another(self) -> Iterator["ForEach"]:
        yield lambda work: [work(stack) for stack in self.stacks]

    @contextmanager
    def _side_by_side(self) -> Iterator["ForEach"]:
        """Do something with all stacks at once, each on its share of torch's threads."""
        threads = torch.get_num_threads()
        workers = min(threads, len(self.stacks))
        try:
            with ThreadPoolExecutor(
                workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
            ) as pool:
                yield lambda work: list(pool.map(work, self.stacks))
        finally:
            # Threads that are started later would take over what the workers have set.
            torch.set_num_threads(threads)

    @torch.no_grad()
    def _measure(self, stack: "Stack") -> None:
        """Measure the models of a stack on the held-out pairs."""
        for member, predicted, loss in zip(
            stack.members, stack.predict(self.held_out.source), stack.mean_losses(), strict=True
        ):
            figures = self.held_out.figures(predicted, member.loss, self.batches.batch_size)
            try:
                member.course.add(loss, *figures)
            except UserError as error:
                member.error = str(error)
            else:
                member.course.keep_if_best(self.networks[member.name].state_dict)

    def _let_go(self) -> None:
        """Take the models that have stopped out of their stacks."""
        kept = []
        for stack in self.stacks:
            places = [i for i, member in enumerate(stack.members) if not member.is_over]
            if len(places) == len(stack.members):
                kept.append(stack)
            elif places:
                kept.append(stack.keep(places))
        self.stacks = kept


ForEach = Callable[[Callable[["Stack"], None]], list[None]]


class Stack:
    """Perceptrons of one width that take their steps together; or one alone.

    Args:
        members: The models; what `_kind` gives agrees.
        networks: Their translators, which are trained in place.
    """

    def __init__(self, members: Sequence[Member], networks: Sequence[MLPTranslator]):
        self.members, self.networks = list(members), list(networks)
        self.config = members[0].config
        self.device = networks[0].device
        self.optimizer = torch.optim.Adam(
            list(self._parameters().values()),
            lr=learning_rate_at(self.config, 0, 1),
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.total, self.seen = torch.zeros(len(self.members), device=self.device), 0
        self.noise = torch.Generator()

    def begin(self, epoch: int) -> None:
        """Begin an epoch."""
        self.total.zero_()
        self.seen = 0
        self.noise = generator_for("noise", self.config.seed, epoch)

    def train(
        self, batches: Sequence[tuple[Tensor, Tensor]], bank: Tensor | None, at: int, steps: int
    ) -> None:
        """Take a step with every model for each of some batches.

        Args:
            batches: Source and target, shapes (n, d), unit norm.
            bank: All distinct targets, if a loss needs them.
            at: The number of the first step in all epochs, from 0.
            steps: Number of steps of an epoch.
        """
        for step, (source, target) in enumerate(batches, start=at):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(self.config, step, self.config.epochs * steps)
            self.optimizer.zero_grad()
            losses = torch.stack(
                [
                    member.loss(predicted, target, bank)
                    for member, predicted in zip(
                        self.members, self._predict(source, self.noise), strict=True
                    )
                ]
            )
            losses.sum().backward()
            self.optimizer.step()
            for member in self.members:
                member.loss.keep_scale_in_bounds()
            self.total += losses.detach() * len(source)
            self.seen += len(source)

    def mean_losses(self) -> list[float]:
        """Give every model's mean loss in the epoch so far."""
        return (self.total / self.seen).tolist()

    @torch.no_grad()
    def predict(self, source: Tensor) -> list[Tensor]:
        """Translate unit vectors, shape (n, d_source), with every model."""
        return self._predict(source, None)

    def keep(self, places: Sequence[int]) -> "Stack":
        """Give a stack of some of the models, which go on as if the others had never been there."""
        smaller = Stack(
            [self.members[place] for place in places],
            [self.networks[place] for place in places],
        )
        for parameter in smaller._parameters().values():
            smaller.optimizer.state[parameter] = self.optimizer.state[parameter]
        return smaller

    def state(self) -> dict[str, Tensor]:
        """Give the weights and the optimiser's moments."""
        return {
            f"{label}/{key}": value
            for label, parameter in self._parameters().items()
            for key, value in {
                "value": parameter.detach(),
                **self.optimizer.state[parameter],
            }.items()
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for label, parameter in self._parameters().items():
            own = _below(tensors, f"{label}/")
            parameter.copy_(own.pop("value"))
            self.optimizer.state[parameter] = {
                key: value.to(self.device) for key, value in own.items()
            }

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{member.name}/{name}": parameter
            for member, network in zip(self.members, self.networks, strict=True)
            for module in (network.layers, member.loss)
            for name, parameter in module.named_parameters()
        }

    def _predict(self, source: Tensor, noise: torch.Generator | None) -> list[Tensor]:
        """Translate with every model; the first of them prepares for all."""
        config, first = self.config, self.networks[0]
        prepared = first.prepare(source)
        if noise is not None and config.noise:
            prepared = add_noise(prepared, config.noise, noise)
        bf16 = computes_in_bf16(config, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            translated = self._translate(prepared)
        return [first.finish(one) for one in translated]

    def _translate(self, prepared: Tensor) -> Sequence[Tensor]:
        layers = self.networks[0].layers
        if len(self.networks) == 1:
            return [layers(prepared)]
        own = [dict(network.layers.named_parameters()) for network in self.networks]
        weights = {name: torch.stack([one[name] for one in own]) for name in own[0]}
        return vmap(lambda weight: functional_call(layers, weight, (prepared,)))(weights).unbind()


def _kind(config: TrainingConfig) -> tuple[Any, ...]:
    """Give what models of one stack have in common, beside the pairs and their order."""
    return (
        config.hidden,
        config.learning_rate,
        config.schedule,
        config.warmup,
        config.epochs,
        config.noise,
        config.centre,
        config.precision,
    )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
