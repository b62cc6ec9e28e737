"""Perceptrons that see the same batches, trained as one batched computation."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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

    Those of one width and one way of changing their inputs and weights are stacked: they take their
    steps together. A model that stops leaves its stack.

    Args:
        pairs: What to train on.
        split: Which of them.
        members: The models; their `batch_size` and `seed` agree.
        device: Where to train.
        batched: Whether a stack is computed as one; by default on all devices but processors.
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
            network = new_network(pairs, member.config, self.batches)
            assert isinstance(network, MLPTranslator)
            self.networks[member.name] = network.to(device)
            member.loss.to(device)
        stacks: dict[tuple[Any, ...], list[Member]] = {}
        for member in members:
            stacks.setdefault(_kind(member.config), []).append(member)
        self.stacks = [self._stack(stack) for stack in stacks.values()]

    @property
    def is_over(self) -> bool:
        """Whether every model has stopped."""
        return not self.stacks

    def epoch(self, on_step: Callable[[int, int], None]) -> None:
        """Train all models that go on for an epoch, and measure them.

        Args:
            on_step: Called after every step with the number of steps done and of all.
        """
        started = time.monotonic()
        going = [member for stack in self.stacks for member in stack.members]
        number = len(going[0].course.history) + 1
        for stack in self.stacks:
            stack.begin(number)
        seen = 0
        for step, (source, target) in enumerate(self.batches.epoch(number), start=1):
            at = (number - 1) * self.batches.steps + step - 1
            for stack in self.stacks:
                stack.step(source, target, self.bank, at, self.batches.steps)
            seen += len(source)
            on_step(step, self.batches.steps)
        for stack in self.stacks:
            predicted = stack.predict(self.held_out.source)
            losses = (stack.total / seen).tolist()
            for member, own, loss in zip(stack.members, predicted, losses, strict=True):
                self._measure(member, own, loss)
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
        networks = [self.networks[member.name] for member in members]
        return Stack(members, networks, batched=self.batched)

    def _measure(self, member: Member, predicted: Tensor, loss: float) -> None:
        figures = self.held_out.figures(predicted, member.loss, self.batches.batch_size)
        try:
            member.course.add(loss, *figures)
        except UserError as error:
            member.error = str(error)
            return
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


class Stack:
    """Perceptrons of one width that take their steps together.

    On a GPU their weights are stacked and all are computed as one (`torch.func`). A processor gains
    nothing from that: it goes faster through one network after the other, whose weights then stay
    in its cache (see `benchmarks/training.py`). The optimiser's step is one either way.

    Args:
        members: The models; what `_kind` gives agrees.
        networks: Their translators, which are trained in place.
        batched: Whether they are computed as one.
    """

    def __init__(
        self, members: Sequence[Member], networks: Sequence[MLPTranslator], *, batched: bool
    ):
        self.members, self.networks = list(members), list(networks)
        self.batched = batched
        self.config = members[0].config
        self.device = networks[0].device
        self.optimizer = torch.optim.Adam(
            list(self._parameters().values()),
            lr=learning_rate_at(self.config, 0, 1),
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.total = torch.zeros(len(self.members), device=self.device)
        self.noise = torch.Generator()

    def begin(self, epoch: int) -> None:
        """Begin an epoch."""
        self.total.zero_()
        self.noise = generator_for("noise", self.config.seed, epoch)

    def step(
        self, source: Tensor, target: Tensor, bank: Tensor | None, at: int, steps: int
    ) -> None:
        """Take one step with every model.

        Args:
            source: Shape (n, d_source), unit norm.
            target: Shape (n, d_target), unit norm.
            bank: All distinct targets, if a loss needs them.
            at: The step's number in all epochs, from 0.
            steps: Number of steps of an epoch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.config, at, self.config.epochs * steps)
        self.optimizer.zero_grad()
        losses = []
        for member, predicted in zip(self.members, self._predict(source, self.noise), strict=True):
            loss = member.loss(predicted, target, bank)
            if not self.batched:
                loss.backward()
            losses.append(loss)
        if self.batched:
            torch.stack(losses).sum().backward()
        self.optimizer.step()
        for member in self.members:
            member.loss.keep_scale_in_bounds()
        self.total += torch.stack(losses).detach() * len(source)

    @torch.no_grad()
    def predict(self, source: Tensor) -> list[Tensor]:
        """Translate unit vectors, shape (n, d_source), with every model."""
        return list(self._predict(source, None))

    def keep(self, places: Sequence[int]) -> "Stack":
        """Give a stack of some of the models, which go on as if the others had never been there."""
        smaller = Stack(
            [self.members[place] for place in places],
            [self.networks[place] for place in places],
            batched=self.batched,
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

    def _predict(self, source: Tensor, noise: torch.Generator | None) -> Iterator[Tensor]:
        """Translate with one model after another; the first of them prepares for all."""
        config, first = self.config, self.networks[0]
        prepared = first.prepare(source)
        if noise is not None and config.noise:
            prepared = add_noise(prepared, config.noise, noise)
        bf16 = computes_in_bf16(config, self.device)
        if self.batched:
            layers = first.layers
            own = [dict(network.layers.named_parameters()) for network in self.networks]
            weights = {name: torch.stack([one[name] for one in own]) for name in own[0]}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                translated = vmap(
                    lambda weight: functional_call(layers, weight, (prepared,)),
                )(weights)
            yield from first.finish(translated).unbind()
            return
        for network in self.networks:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                translated = network.layers(prepared)
            yield network.finish(translated)


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
