"""Perceptrons that see the same batches, trained as one batched computation."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

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

    Those of one width and one way of changing their inputs and weights are stacked: each weight of
    all of them is one tensor, with one fused optimiser step. A model that stops leaves its stack.

    Args:
        pairs: What to train on.
        split: Which of them.
        members: The models; their `batch_size` and `seed` agree.
        device: Where to train.
    """

    def __init__(self, pairs: Pairs, split: Split, members: Sequence[Member], device: torch.device):
        first = members[0].config
        assert first.batch_size is not None
        self.members, self.device = list(members), device
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
            self.networks[member.name] = network
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
            for place, (member, loss) in enumerate(zip(stack.members, losses, strict=True)):
                self._measure(member, stack, place, predicted[place], loss)
        spent = (time.monotonic() - started) / len(going)
        for member in going:
            member.course.seconds += spent
        self._let_go()

    def translator(self, member: Member) -> MLPTranslator:
        """Give a model's translator of its best epoch, on the CPU."""
        network = self.networks[member.name]
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
        return Stack(members, [self.networks[member.name] for member in members], self.device)

    def _measure(
        self, member: Member, stack: "Stack", place: int, predicted: Tensor, loss: float
    ) -> None:
        figures = self.held_out.figures(predicted, member.loss, self.batches.batch_size)
        try:
            member.course.add(loss, *figures)
        except UserError as error:
            member.error = str(error)
            return
        member.course.keep_if_best(lambda: stack.weights_of(place))

    def _let_go(self) -> None:
        """Take the models that have stopped out of their stacks."""
        kept = []
        for stack in self.stacks:
            places = [i for i, member in enumerate(stack.members) if not member.is_over]
            if len(places) == len(stack.members):
                kept.append(stack)
            elif places:
                smaller = self._stack([stack.members[place] for place in places])
                smaller.restore(stack.state(places))
                kept.append(smaller)
        self.stacks = kept


class Stack:
    """Perceptrons of one width whose weights lie in common tensors, the first dimension theirs.

    Args:
        members: The models; what `_kind` gives agrees.
        networks: Their translators, on the CPU, whose weights are those to begin with.
        device: Where to train.
    """

    def __init__(
        self, members: Sequence[Member], networks: Sequence[MLPTranslator], device: torch.device
    ):
        self.members = list(members)
        self.config = members[0].config
        self.device = device
        self.frame = copy.deepcopy(networks[0]).to(device)
        self.means = {
            name: mean.to(device)
            for name, mean in (
                ("source_mean", self.frame.source_mean),
                ("target_mean", self.frame.target_mean),
            )
            if mean is not None
        }
        weights, _ = stack_module_state([network.layers for network in networks])
        self.weights = {
            name: weight.detach().to(device).requires_grad_() for name, weight in weights.items()
        }
        self.optimizer = torch.optim.Adam(
            list(self._parameters().values()),
            lr=learning_rate_at(self.config, 0, 1),
            fused=device.type in ("cpu", "cuda"),
        )
        self.total = torch.zeros(len(self.members), device=device)
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
        predicted = self._predict(source, self.noise)
        losses = torch.stack(
            [
                member.loss(own, target, bank)
                for member, own in zip(self.members, predicted.unbind(), strict=True)
            ]
        )
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        for member in self.members:
            member.loss.keep_scale_in_bounds()
        self.total += losses.detach() * len(source)

    @torch.no_grad()
    def predict(self, source: Tensor) -> Tensor:
        """Translate unit vectors, shape (n, d_source), with every model: (m, n, d_target)."""
        return self._predict(source, None)

    def weights_of(self, place: int) -> dict[str, Tensor]:
        """Give one model's weights, named as in its translator."""
        own = {f"layers.{name}": weight[place] for name, weight in self.weights.items()}
        return {**own, **self.means}

    def state(self, places: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Give the weights and the optimiser's moments, of some of the models if asked."""
        tensors = {}
        names = {member.name for member in self.members}
        if places is not None:
            names = {self.members[place].name for place in places}
        for label, parameter in self._parameters().items():
            kind, owner, _ = label.split("/")
            if kind == "loss" and owner not in names:
                continue
            moments = self.optimizer.state[parameter]
            for key, value in {"value": parameter.detach(), **moments}.items():
                is_stacked = kind == "weights" and value.dim() > 0
                chosen = value[list(places)] if is_stacked and places is not None else value
                tensors[f"{label}/{key}"] = chosen
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for label, parameter in self._parameters().items():
            own = _below(tensors, f"{label}/")
            parameter.copy_(own.pop("value"))
            # The fused optimiser counts its steps where the weights are.
            self.optimizer.state[parameter] = {
                key: value.to(self.device).clone() for key, value in own.items()
            }

    def _parameters(self) -> dict[str, Tensor]:
        losses = {
            f"loss/{member.name}/{name}": parameter
            for member in self.members
            for name, parameter in member.loss.named_parameters()
        }
        return {**{f"weights//{name}": weight for name, weight in self.weights.items()}, **losses}

    def _predict(self, source: Tensor, noise: torch.Generator | None) -> Tensor:
        config = self.config
        prepared = self.frame.prepare(source)
        if noise is not None and config.noise:
            prepared = add_noise(prepared, config.noise, noise)
        bf16 = computes_in_bf16(config, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            translated = vmap(self._translate, in_dims=(0, None))(self.weights, prepared)
        return self.frame.finish(translated)

    def _translate(self, weights: dict[str, Tensor], prepared: Tensor) -> Tensor:
        layers: nn.Module = self.frame.layers
        return functional_call(layers, weights, (prepared,))


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
