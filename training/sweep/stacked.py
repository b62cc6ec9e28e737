"""Perceptrons that see the same batches, trained side by side."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.adam import adam

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError
from clip2clap.training.batches import Batches, generator_for
from clip2clap.training.config import TrainingConfig
from clip2clap.training.gradients import loss_and_gradient
from clip2clap.training.losses import TranslationLoss
from clip2clap.training.pairs import Pairs, Split
from clip2clap.training.trainer import HeldOut, add_noise, new_loss, new_network
from clip2clap.training.trainer_state import TrainerState, computes_in_bf16, learning_rate_at
from clip2clap.translator.mlp import MLPTranslator

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

    course: TrainerState = field(init=False)
    """Its figures so far, and its best weights."""

    loss: TranslationLoss = field(init=False)
    """Its loss."""

    error: str | None = None
    """Why it can't go on, if it diverged."""

    def __post_init__(self) -> None:
        self.course = TrainerState(self.config)
        self.loss = new_loss(self.config)

    @property
    def is_over(self) -> bool:
        """Whether it is to be trained no more."""
        return self.error is not None or self.course.is_over


class Group:
    """Models that train together: the same pairs, in the same batches.

    On a GPU those of one width and one way of changing their inputs and weights are stacked: they
    take their steps as one batched computation (`torch.func`), and a model that stops leaves its
    stack. A processor would gain nothing from that: there every model goes its own way, written out
    in `Lone`, as many at a time as torch has threads (see `benchmarks/training.py`).

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
        for member in sorted(members, key=lambda member: -member.config.hidden_size):
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
        with self._one_after_another() if self.batched else self._side_by_side() as start:
            wait = start(lambda stack: stack.begin(number))
            for part in batched(batches, stretch):
                # Begun before the last stretch is over, so that no thread waits for another.
                following = start(
                    lambda stack, part=part, at=done: stack.train(part, self.bank, at, steps)
                )
                wait()
                on_step(done - (number - 1) * steps, steps)
                wait = following
                done += len(part)
            wait()
            on_step(steps, steps)
            start(self._measure)()
        spent = (time.monotonic() - started) / len(going)
        for member in going:
            member.course.seconds += spent
        self._let_go()

    def translator(self, member: Member) -> MLPTranslator:
        """Give a model's translator of its best epoch, on the CPU."""
        network = self.networks[member.name].to("cpu")
        # Weights that a `Lone` has put together are taken apart again.
        network.load_state_dict(member.course.best_weights, assign=True)
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
        device = networks[0].device
        if self.batched or device.type != "cpu" or computes_in_bf16(members[0].config, device):
            return Stack(members, networks)
        return Lone(members, networks)

    @contextmanager
    def _one_after_another(self) -> Iterator["Start"]:
        def start(work: "Work") -> Callable[[], None]:
            for stack in self.stacks:
                work(stack)
            return lambda: None

        yield start

    @contextmanager
    def _side_by_side(self) -> Iterator["Start"]:
        """Do something with all stacks at once, each on its share of torch's threads."""
        threads = torch.get_num_threads()
        workers = min(threads, len(self.stacks))
        last: dict[Stack, Future[None]] = {}

        def after(before: Future[None] | None, work: "Work", stack: Stack) -> None:
            if before is not None:
                before.result()
            work(stack)

        try:
            with ThreadPoolExecutor(
                workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
            ) as pool:

                def start(work: "Work") -> Callable[[], None]:
                    for stack in self.stacks:
                        last[stack] = pool.submit(after, last.get(stack), work, stack)
                    begun = list(last.values())

                    def wait() -> None:
                        for future in begun:
                            future.result()

                    return wait

                yield start
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


# What is to be done with a stack; and what begins it for all, and gives what waits for its end.
Work = Callable[["Stack"], None]
Start = Callable[[Work], Callable[[], None]]


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
            losses = self._find_gradients(source, target, bank)
            self._step(learning_rate_at(self.config, step, self.config.epochs * steps))
            for member in self.members:
                member.loss.keep_scale_in_bounds()
            self.total.add_(losses, alpha=len(source))
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

    def _find_gradients(self, source: Tensor, target: Tensor, bank: Tensor | None) -> Tensor:
        """Set the gradients for a batch; give every model's loss."""
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
        return losses.detach()

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{member.name}/{name}": parameter
            for member, network in zip(self.members, self.networks, strict=True)
            for module in (network.layers, member.loss)
            for name, parameter in module.named_parameters()
        }

    def _predict(self, source: Tensor, noise: torch.Generator | None) -> list[Tensor]:
        """Translate with every model; the first of them prepares for all."""
        prepared = self._prepare(source, noise)
        bf16 = computes_in_bf16(self.config, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            translated = self._translate(prepared)
        return [self.networks[0].finish(one) for one in translated]

    def _prepare(self, source: Tensor, noise: torch.Generator | None) -> Tensor:
        prepared = self.networks[0].prepare(source)
        if noise is not None and self.config.noise:
            prepared = add_noise(prepared, self.config.noise, noise)
        return prepared

    def _translate(self, prepared: Tensor) -> Sequence[Tensor]:
        layers = self.networks[0].layers
        if len(self.networks) == 1:
            return [layers(prepared)]
        own = [dict(network.layers.named_parameters()) for network in self.networks]
        weights = {name: torch.stack([one[name] for one in own]) for name in own[0]}
        return vmap(lambda weight: functional_call(layers, weight, (prepared,)))(weights).unbind()


class Lone(Stack):
    """One perceptron on a processor, whose way forward and back is written out.

    All its weights are one piece of memory, and so are their gradients, which the products of the
    way back are written into: Adam takes one pass over both, and nothing is allocated in a step
    but what the loss needs.

    Args:
        members: The model.
        networks: Its translator, which is trained in place.
    """

    def __init__(self, members: Sequence[Member], networks: Sequence[MLPTranslator]):
        layers = networks[0].layers
        weights = list(layers.parameters())
        self.flat = nn.Parameter(parameters_to_vector(weights).detach())
        vector_to_parameters(self.flat, weights)
        self.flat.grad = torch.zeros_like(self.flat)
        gradients = [
            part.view_as(weight)
            for part, weight in zip(
                self.flat.grad.split([weight.numel() for weight in weights]), weights, strict=True
            )
        ]
        # Weight and bias of every layer.
        self.weights = list(zip(weights[::2], weights[1::2], strict=True))
        self.gradients = list(zip(gradients[::2], gradients[1::2], strict=True))
        rows = members[0].config.batch_size
        assert rows is not None
        self.results = [torch.empty(rows, len(bias)) for _, bias in self.weights]
        self.ways_back = [torch.empty(rows, len(bias)) for _, bias in self.weights[:-1]]
        super().__init__(members, networks)
        for parameter in self._parameters().values():
            self.optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        chosen = self.optimizer.defaults
        beta1, beta2 = chosen["betas"]
        self.settings = {"beta1": beta1, "beta2": beta2} | {
            name: chosen[name] for name in ("eps", "weight_decay", "amsgrad", "maximize")
        }

    @torch.no_grad()
    def _find_gradients(self, source: Tensor, target: Tensor, bank: Tensor | None) -> Tensor:
        rows = len(source)
        values = [self._prepare(source, self.noise)]
        for (weight, bias), result in zip(self.weights, self.results, strict=True):
            given = values[-1] if len(values) == 1 else values[-1].relu_()
            values.append(torch.addmm(bias, given, weight.T, out=result[:rows]))
        translated, mean = values.pop(), self.networks[0].target_mean
        if mean is not None:
            translated.add_(mean)
        loss, gradient = loss_and_gradient(self.members[0].loss, translated, target, bank)
        for layer in reversed(range(len(self.weights))):
            given, (to_weight, to_bias) = values[layer], self.gradients[layer]
            torch.mm(gradient.T, given, out=to_weight)
            torch.sum(gradient, 0, out=to_bias)
            if layer:
                back = self.ways_back[layer - 1][:rows]
                gradient = torch.mm(gradient, self.weights[layer][0], out=back)
                # Nothing goes back through what ReLU has made 0.
                gradient.mul_(given.sign_())
        return loss[None]

    @torch.no_grad()
    def _step(self, rate: float) -> None:
        # The optimiser's own step takes four times as long around the same arithmetic, and keeps
        # the other threads waiting meanwhile.
        parameters = self.optimizer.param_groups[0]["params"]
        states = [self.optimizer.state[parameter] for parameter in parameters]
        adam(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            lr=rate,
            **self.settings,
        )

    def _parameters(self) -> dict[str, nn.Parameter]:
        (member,) = self.members
        return {
            f"{member.name}/layers": self.flat,
            **{f"{member.name}/{name}": scale for name, scale in member.loss.named_parameters()},
        }


def _kind(config: TrainingConfig) -> tuple[Any, ...]:
    """Give what models of one stack have in common, beside the pairs and their order."""
    return (
        config.hidden_size,
        config.learning_rate,
        config.schedule,
        config.warmup,
        config.epochs,
        config.noise,
        config.center,
        config.precision,
    )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
