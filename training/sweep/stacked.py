"""Stack of multilayer perceptrons that are trained as one batched computation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.adam import adam

from clip2clap.training.batches import generator_for
from clip2clap.training.checkpoint import flatten, part_of
from clip2clap.training.config import TrainingConfig
from clip2clap.training.gradients import loss_and_gradient
from clip2clap.training.trainer import add_noise, new_loss
from clip2clap.training.trainer_state import TrainerState, computes_in_bf16, learning_rate_at
from clip2clap.translator.mlp import MLPTranslator


class Member:
    """Model of a group: resolved settings, loss, state, and the error if it diverged."""

    def __init__(self, name: str, config: TrainingConfig):
        self.name, self.config = name, config
        self.progress, self.loss = TrainerState(config), new_loss(config)
        self.error: str | None = None

    @property
    def is_over(self) -> bool:
        """True when the model is finished or has diverged."""
        return self.error is not None or self.progress.is_over


class Stack:
    """Stack of perceptrons of one width and schedule, trained in place and optimized together."""

    def __init__(self, members: "Sequence[Member]", networks: Sequence[MLPTranslator]):
        self.members, self.networks = list(members), list(networks)
        self.config = members[0].config
        self.device = networks[0].device
        self.optimizer = torch.optim.Adam(
            list(self._parameters().values()),
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.total, self.seen = torch.zeros(len(self.members), device=self.device), 0
        self.noise = torch.Generator()

    def begin(self, epoch: int) -> None:
        """Start an epoch."""
        self.total.zero_()
        self.seen = 0
        self.noise = generator_for("noise", self.config.seed, epoch)

    def train(
        self, batches: Sequence[tuple[Tensor, Tensor]], bank: Tensor | None, at: int, steps: int
    ) -> None:
        """Train every model by one step for each of several batches of unit vectors.

        `at` is the number of the first step over all epochs, from 0, of `steps` per epoch.
        """
        for step, (source, target) in enumerate(batches, start=at):
            losses = self._find_gradients(source, target, bank)
            self._step(learning_rate_at(self.config, step, self.config.epochs * steps))
            for member in self.members:
                member.loss.keep_scale_in_bounds()
            self.total.add_(losses, alpha=len(source))
            self.seen += len(source)

    def mean_losses(self) -> list[float]:
        """Return every model's mean loss in the epoch so far."""
        return (self.total / self.seen).tolist()

    def keep(self, places: Sequence[int]) -> "Stack":
        """Return a stack of some of the models, which continue as if they had been alone."""
        members, networks = zip(
            *((self.members[place], self.networks[place]) for place in places), strict=True
        )
        smaller = Stack(members, networks)
        for parameter in smaller._parameters().values():
            smaller.optimizer.state[parameter] = self.optimizer.state[parameter]
        return smaller

    def state(self) -> dict[str, Tensor]:
        """Return the weights and the optimizer's moments."""
        return flatten(
            {
                label: {"value": parameter.detach(), **self.optimizer.state[parameter]}
                for label, parameter in self._parameters().items()
            }
        )

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Load what `state` returned."""
        for label, parameter in self._parameters().items():
            own = part_of(tensors, label)
            parameter.copy_(own.pop("value"))
            self.optimizer.state[parameter] = {
                key: value.to(self.device) for key, value in own.items()
            }

    def _find_gradients(self, source: Tensor, target: Tensor, bank: Tensor | None) -> Tensor:
        """Set the gradients for a batch; return every model's loss."""
        self.optimizer.zero_grad()
        both = zip(self.members, self.predict(source, self.noise), strict=True)
        losses = torch.stack([member.loss(predicted, target, bank) for member, predicted in both])
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

    def predict(self, source: Tensor, noise: torch.Generator | None) -> list[Tensor]:
        """Translate unit vectors with every model; the first one prepares for all."""
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
    """One perceptron on a CPU, with the forward and the backward pass written out.

    All its weights are one tensor, and so are their gradients, which the backward pass writes into:
    Adam updates both in one pass, and only the loss allocates memory.
    """

    def __init__(self, members: "Sequence[Member]", networks: Sequence[MLPTranslator]):
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
        self.results = [bias.new_empty(rows, len(bias)) for _, bias in self.weights]
        self.backward_buffers = [bias.new_empty(rows, len(bias)) for _, bias in self.weights[:-1]]
        super().__init__(members, networks)
        for parameter in self._parameters().values():
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        names = ("eps", "weight_decay", "amsgrad", "maximize")
        self.settings = {name: self.optimizer.defaults[name] for name in names}
        self.settings["beta1"], self.settings["beta2"] = self.optimizer.defaults["betas"]

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
                back = self.backward_buffers[layer - 1][:rows]
                gradient = torch.mm(gradient, self.weights[layer][0], out=back)
                # ReLU passes no gradient where its output is 0.
                gradient.mul_(given.sign_())
        return loss[None]

    @torch.no_grad()
    def _step(self, rate: float) -> None:
        # The optimizer's own step is four times slower for the same arithmetic, and blocks
        # the other threads meanwhile.
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
