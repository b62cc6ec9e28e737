"""A diffusion prior: draws vectors of one space that go with a vector of another."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.translator.base import Translator
from clip2clap.translator.mlp import draw_weights
from clip2clap.translator.residual import ResidualBlock

Generators = torch.Generator | Sequence[torch.Generator]

# AudioLDM's own. It ends where next to nothing is left of the vector.
_NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "sample",
}
_TIME_FREQUENCIES = 64

# Of targets times the square root of their length, whose variances are around 1 together. Where
# pairs are few some axes have none at all.
_SMALLEST_VARIANCE = 1e-3


class PriorTranslator(Translator):
    """A diffusion prior, which samples many target vectors for one source vector.

    A picture has more than one sound: where a regression answers with the mean of them, this draws
    one. Noise becomes a vector in a few steps, in each of which a network of residual blocks,
    told the source vector and the time, predicts the vector without noise; see DALL-E 2 (Ramesh et
    al. 2022, arXiv 2204.06125) and V2A-Mapper (Wang et al. 2023, arXiv 2308.09300). The steps are
    DPM-Solver++'s (Lu et al. 2022, arXiv 2211.01095). Vectors are scaled by the square root of
    their length, since unit vectors are tiny beside Gaussian noise. What a Gaussian of the targets'
    mean and covariance would make of a noisy vector is known in closed form; the network gives the
    rest, on the axes of that Gaussian (after Karras et al. 2022, arXiv 2206.00364), so that it
    needn't learn which directions hold nothing but noise.

    Args:
        source_dim: Length of the vectors that go in.
        target_dim: Length of the vectors that come out.
        hidden: Width of the blocks.
        blocks: Number of blocks.
        dropout: Share of a block's hidden values that is set to 0 in training.
        centred: Whether the means of both sides are kept, taken off and put back; see `centre`.
        default_guidance_scale: What `guidance_scale=None` means.
        default_num_inference_steps: What `num_inference_steps=None` means.
        source_space: Where the vectors that go in live.
        target_space: Where the vectors that come out live.
        recipe: How it was trained.
        metrics: How well it does on pairs it has not seen.
        data: Fingerprint of the pairs it was made from.
        versions: Of the libraries that made it; the present ones if None.

    Raises:
        UserError: If a size is no positive whole number, a default makes no sense, or a space has
            another size.
    """

    @register_to_config
    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        hidden: int = 512,
        blocks: int = 3,
        dropout: float = 0.1,
        centred: bool = False,
        default_guidance_scale: float = 1.0,
        default_num_inference_steps: int = 15,
        source_space: EmbeddingSpace | dict[str, Any] | None = None,
        target_space: EmbeddingSpace | dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        data: str | None = None,
        versions: dict[str, str] | None = None,
    ):
        super().__init__()
        self._finish_config()
        _check_options(1, default_guidance_scale, default_num_inference_steps)
        if centred:
            self._keep_means()
        self.frequencies = Timesteps(
            _TIME_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        self.time = TimestepEmbedding(_TIME_FREQUENCIES, hidden)
        self.condition = nn.Linear(source_dim, hidden)
        self.enter = nn.Linear(target_dim, hidden)
        self.body = nn.ModuleList(ResidualBlock(hidden, dropout) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, target_dim))
        self.register_buffer("middle", torch.zeros(target_dim))
        self.register_buffer("axes", torch.eye(target_dim))
        self.register_buffer("variances", torch.ones(target_dim))

    @torch.no_grad()
    def forward(
        self,
        embeds: Tensor,
        *,
        num_samples: int = 1,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """Draw embeddings of the target space.

        Args:
            embeds: Embeddings of the source space, shape (n, source_dim), floating point, of any
                norm but zero: only their direction counts.
            num_samples: How many to draw for each.
            guidance_scale: Strength of classifier-free guidance (Ho and Salimans 2022,
                arXiv 2207.12598). 1 draws from what was learnt, 0 without regard to `embeds`; more
                than 1 moves towards what tells the source apart, and narrows the spread. The
                translator's default if None.
            num_inference_steps: Steps from noise to vector; the translator's default if None.
            generator: Where the noise comes from: one for all, or one for each of `embeds`. None
                makes equal inputs have equal outputs in any company: a single vector starts from
                the middle of all noise, which gives a typical one; several start, in every row,
                from the same noise.

        Returns:
            Embeddings of the target space, shape (n, target_dim), or (n, num_samples, target_dim)
            for several; unit norm, in the translator's dtype.

        Raises:
            UserError: If the shape or dtype is wrong, a vector is zero or not finite, or an option
                makes no sense.
        """
        if guidance_scale is None:
            guidance_scale = float(self.config["default_guidance_scale"])
        if num_inference_steps is None:
            num_inference_steps = int(self.config["default_num_inference_steps"])
        _check_options(num_samples, guidance_scale, num_inference_steps)
        units = self._prepared(embeds)
        noise = self._noise(len(units), num_samples, generator).to(units.device)
        drawn = self._denoise(
            noise.flatten(0, 1),
            units.repeat_interleave(num_samples, 0),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
        )
        drawn = self.finish(drawn / self.target_dim**0.5).to(self.dtype)
        drawn = drawn.view(len(units), num_samples, self.target_dim)
        return drawn if num_samples > 1 else drawn.squeeze(1)

    def sample(
        self, embeds: Tensor, *, num_samples: int = 1, generator: Generators | None = None
    ) -> Tensor:
        """Draw embeddings as `forward` does, shape (n, num_samples, target_dim)."""
        drawn = self(embeds, num_samples=num_samples, generator=generator)
        return drawn.view(len(embeds), num_samples, self.target_dim)

    def predict(self, noisy: Tensor, timesteps: Tensor, units: Tensor, known: Tensor) -> Tensor:
        """Predict the vectors without their noise.

        Args:
            noisy: Vectors times the square root of `target_dim`, with noise; shape (n, target_dim).
            timesteps: How much noise there is, from 0 to 999, shape (n,).
            units: Source vectors as `prepare` gives them, shape (n, source_dim), unit norm.
            known: Which rows are told their source vector, boolean, shape (n,).

        Returns:
            Vectors times the square root of `target_dim`, shape (n, target_dim).
        """
        share = self.noise_share(timesteps).to(noisy)
        kept = (1 - share).sqrt()
        away = (noisy - kept * self.middle) @ self.axes
        total = (1 - share) * self.variances + share
        times = self.frequencies(timesteps).to(self.dtype)
        # A unit vector's values are small where it has many; the layers expect them around 1.
        told = units * known[:, None] * self.source_dim**0.5
        context = self.time(times) + self.condition(told)
        hidden = self.enter(away / total.sqrt())
        for block in self.body:
            hidden = block(hidden + context)
        # The mean of what a Gaussian's vector may have been, and the rest by how uncertain that is.
        guess = kept * self.variances / total * away
        rest = (self.variances * share / total).sqrt() * self.leave(hidden)
        return self.middle + (guess + rest) @ self.axes.T

    def add_noise(self, targets: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Give vectors as they are on their way to noise.

        Args:
            targets: Target vectors, less their mean if the prior keeps it, shape (n, target_dim).
            noise: Standard normal, shape (n, target_dim).
            timesteps: How much noise, from 0 to 999, shape (n,).

        Returns:
            What `predict` takes as `noisy`.
        """
        scaled: Any = targets * self.target_dim**0.5
        return _forward_process().add_noise(scaled, noise, timesteps)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def expect(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the Gaussian that targets are held to be from before anything is learnt.

        Args:
            mean: Of the unit vectors, less the target's mean if the prior keeps it; shape
                (target_dim,).
            covariance: Of the same, shape (target_dim, target_dim).

        Raises:
            UserError: If a shape is wrong.
        """
        shapes = tuple(mean.shape), tuple(covariance.shape)
        if shapes != ((self.target_dim,), (self.target_dim, self.target_dim)):
            raise UserError(
                f"Expected a mean and a covariance of {self.target_dim} values, got shapes "
                f"{shapes[0]} and {shapes[1]}."
            )
        variances, axes = torch.linalg.eigh(covariance.double() * self.target_dim)
        self.middle.copy_(mean * self.target_dim**0.5)
        self.axes.copy_(axes)
        self.variances.copy_(variances.clamp(min=_SMALLEST_VARIANCE))

    def noise_share(self, timesteps: Tensor) -> Tensor:
        """Give what share of the variance is noise at timesteps, shape (n, 1), float32."""
        kept = _forward_process().alphas_cumprod.to(timesteps.device)
        return 1 - kept[timesteps.long(), None]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew, as `nn.Linear` does by default, from a generator of one's own.

        Args:
            generator: On the CPU; equal seeds give equal weights.
        """
        draw_weights(self, generator)

    def _noise(self, count: int, num_samples: int, generator: Generators | None) -> Tensor:
        """Draw the noise to begin with, shape (count, num_samples, target_dim), float32."""
        shape = (num_samples, self.target_dim)
        if generator is None:
            if num_samples == 1:
                return torch.zeros(count, *shape)
            fixed = torch.Generator().manual_seed(0)
            return torch.randn(shape, generator=fixed).expand(count, -1, -1)
        if isinstance(generator, torch.Generator):
            return torch.randn((count, *shape), generator=generator, device=generator.device)
        if len(generator) != count:
            raise UserError(
                f"Expected one generator, or one for each of {count} embeds, got {len(generator)}."
            )
        drawn = [torch.randn(shape, generator=own, device=own.device) for own in generator]
        return torch.stack([noise.cpu() for noise in drawn])

    def _denoise(
        self, noise: Tensor, units: Tensor, *, guidance_scale: float, num_inference_steps: int
    ) -> Tensor:
        """Turn noise into vectors; they stay in float32 on the way, whatever the weights are."""
        # It brings scipy.stats along, 60 MB, which no other translator needs.
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler(
            **_NOISE_SCHEDULE, algorithm_type="dpmsolver++", use_lu_lambdas=True
        )
        scheduler.set_timesteps(num_inference_steps, device=noise.device)
        # Steps are counted: two of them may fall on one timestep, by which it would look them up.
        scheduler.set_begin_index(0)
        told = torch.ones(len(units), dtype=torch.bool, device=units.device)
        vectors = noise
        for timestep in scheduler.timesteps:
            times = timestep.expand(len(units))
            noisy = vectors.to(self.dtype)
            predicted = self.predict(noisy, times, units, told).float()
            if guidance_scale != 1.0:
                untold = self.predict(noisy, times, units, ~told).float()
                predicted = untold + guidance_scale * (predicted - untold)
            vectors = scheduler.step(predicted, timestep, vectors, return_dict=False)[0]
        return vectors


@functools.cache
def _forward_process() -> DDPMScheduler:
    return DDPMScheduler(**_NOISE_SCHEDULE)


def _check_options(num_samples: int, guidance_scale: float, num_inference_steps: int) -> None:
    most = _NOISE_SCHEDULE["num_train_timesteps"]
    for name, value, largest in (
        ("num_samples", num_samples, None),
        ("num_inference_steps", num_inference_steps, most),
    ):
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_count or (largest is not None and value > largest):
            bound = "" if largest is None else f" and at most {largest}"
            raise UserError(f"Expected {name} to be a whole number above 0{bound}, got {value!r}.")
    if not isinstance(guidance_scale, int | float) or not 0 <= guidance_scale < float("inf"):
        raise UserError(f"Expected guidance_scale to be 0 or more, got {guidance_scale!r}.")
