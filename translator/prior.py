"""Diffusion prior: samples target embeddings that go with a source embedding."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from clip2clap.core.errors import UserError, is_number
from clip2clap.translator.base import Translator, check_count
from clip2clap.translator.residual import ResidualBlock
from clip2clap.translator.saving import Provenance

Generators = torch.Generator | Sequence[torch.Generator]

# AudioLDM's own schedule; next to nothing is left of the vector at its end.
_NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "sample",
}
_TIME_FREQUENCIES = 64

# Lower bound of variances, which are around 1 on average; with few pairs, some are 0.
_MIN_VARIANCE = 1e-3


class PriorTranslator(Translator):
    """Diffusion prior that samples many target embeddings for one source embedding.

    A regression predicts the mean of all audio that matches an image; the prior samples one
    embedding, by a few steps of DPM-Solver++ (Lu et al. 2022, https://arxiv.org/abs/2211.01095).
    In each, a network of residual blocks predicts the clean vector from the noisy one, the time
    and the source; see DALL-E 2 (Ramesh et al. 2022, https://arxiv.org/abs/2204.06125) and
    V2A-Mapper (Wang et al. 2023, https://arxiv.org/abs/2308.09300).

    Vectors are scaled by the square root of their length, since unit vectors are tiny beside
    Gaussian noise. The posterior mean under a Gaussian with the targets' mean and covariance is
    known in closed form; the network predicts the residual, in the eigenbasis of that Gaussian
    (after Karras et al. 2022, https://arxiv.org/abs/2206.00364), so that it need not learn which
    directions are pure noise.

    Args:
        source_dim: Length of the input vectors.
        target_dim: Length of the output vectors.
        hidden_size: Width of the blocks.
        blocks: Number of blocks.
        dropout: Dropout probability in the blocks.
        centered: Keep a mean per side, which is subtracted and added back; see `center`.
        default_guidance_scale: Value of `guidance_scale=None`.
        default_num_inference_steps: Value of `num_inference_steps=None`.
        provenance: Facts about the translator.

    Raises:
        UserError: If a size is not a positive whole number, a default is out of range, or a space
            has another size.

    Examples:
        >>> import torch
        >>> from clip2clap import PriorTranslator
        >>> prior = PriorTranslator(16, 12, hidden_size=8).eval()
        >>> prior.sample(torch.randn(2, 16), num_samples=5).shape
        torch.Size([2, 5, 12])
    """

    objective: ClassVar[Literal["regression", "diffusion"]] = "diffusion"
    renamed_weights: ClassVar[dict[str, str]] = {"middle": "mean", "axes": "eigenvectors"}

    mean: Tensor
    eigenvectors: Tensor
    variances: Tensor

    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        hidden_size: int = 512,
        blocks: int = 3,
        dropout: float = 0.1,
        centered: bool = False,
        default_guidance_scale: float = 1.0,
        default_num_inference_steps: int = 15,
        provenance: Provenance | None = None,
    ):
        super().__init__(locals())
        # diffusers takes seconds to import, and no other translator needs it.
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps

        _check_options(1, default_guidance_scale, default_num_inference_steps)
        self.default_guidance_scale = float(default_guidance_scale)
        self.default_num_inference_steps = default_num_inference_steps
        self.frequencies = Timesteps(
            _TIME_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        self.time = TimestepEmbedding(_TIME_FREQUENCIES, hidden_size)
        self.condition = nn.Linear(source_dim, hidden_size)
        self.enter = nn.Linear(target_dim, hidden_size)
        self.body = nn.ModuleList(ResidualBlock(hidden_size, dropout) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, target_dim))
        self.register_buffer("mean", torch.zeros(target_dim))
        self.register_buffer("eigenvectors", torch.eye(target_dim))
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
        """Sample embeddings of the target space.

        Args:
            embeds: Source embeddings, shape (n, source_dim), floating point, of any nonzero norm.
            num_samples: Samples per embedding.
            guidance_scale: Strength of classifier-free guidance (Ho and Salimans 2022,
                https://arxiv.org/abs/2207.12598). 1 samples from the learned distribution, 0
                ignores `embeds`, more than 1 emphasizes the source's distinctive features, at the
                cost of diversity. None is the translator's default.
            num_inference_steps: Steps from noise to vector; None is the translator's default.
            generator: Source of the noise: one for all, or one per embedding. With None equal
                inputs have equal outputs in any batch: a single sample starts
                from zero noise, which gives a typical one; several start from the same noise in
                every row.

        Returns:
            Target embeddings, shape (n, target_dim), or (n, num_samples, target_dim) for several;
            unit norm, in the translator's dtype.

        Raises:
            UserError: If the shape or dtype is wrong, a vector is zero or not finite, or an option
                is out of range.
        """
        if guidance_scale is None:
            guidance_scale = self.default_guidance_scale
        if num_inference_steps is None:
            num_inference_steps = self.default_num_inference_steps
        _check_options(num_samples, guidance_scale, num_inference_steps)
        units = self._checked(embeds)
        noise = self._noise(len(units), num_samples, generator).to(units.device)
        drawn = self._denoise(
            noise.flatten(0, 1),  # (n * num_samples, target_dim)
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
        """Sample embeddings as `forward` does, shape (n, num_samples, target_dim)."""
        drawn = self(embeds, num_samples=num_samples, generator=generator)
        return drawn.view(len(embeds), num_samples, self.target_dim)

    def predict(self, noisy: Tensor, timesteps: Tensor, units: Tensor, cond_mask: Tensor) -> Tensor:
        """Predict the clean vectors.

        Args:
            noisy: Noisy vectors times the square root of `target_dim`, shape (n, target_dim).
            timesteps: Noise levels, from 0 to 999, shape (n,).
            units: Source vectors from `prepare`, shape (n, source_dim), unit norm.
            cond_mask: Rows that are conditioned on their source, boolean, shape (n,).

        Returns:
            Vectors times the square root of `target_dim`, shape (n, target_dim).
        """
        noise_variance = self.noise_variance(timesteps).to(noisy)  # (n, 1)
        scale = (1 - noise_variance).sqrt()
        away = (noisy - scale * self.mean) @ self.eigenvectors  # (n, target_dim)
        total = (1 - noise_variance) * self.variances + noise_variance
        times = self.frequencies(timesteps).to(self.dtype)
        # The values of a long unit vector are small; the layers expect them around 1.
        condition = units * cond_mask[:, None] * self.source_dim**0.5
        context = self.time(times) + self.condition(condition)  # (n, hidden_size)
        hidden = self.enter(away / total.sqrt())
        for block in self.body:
            hidden = block(hidden + context)
        # Posterior mean under the Gaussian, and the residual in units of its standard deviation.
        guess = scale * self.variances / total * away
        rest = (self.variances * noise_variance / total).sqrt() * self.leave(hidden)
        return self.mean + (guess + rest) @ self.eigenvectors.T

    def add_noise(self, targets: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Diffuse target vectors, less the target mean if there is one, to `predict`'s `noisy`.

        Targets and standard normal noise have shape (n, target_dim), timesteps (0 to 999) (n,).
        """
        alpha_bar = _alphas_bar().to(targets.device)[timesteps.long(), None]
        scaled = targets * self.target_dim**0.5
        return alpha_bar.sqrt() * scaled + (1 - alpha_bar).sqrt() * noise

    @torch.no_grad()
    def fit_whitening(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the Gaussian prior of the targets before training.

        Args:
            mean: Mean of the unit vectors, less the target mean if there is one, shape
                (target_dim,).
            covariance: Covariance of the same, shape (target_dim, target_dim).

        Raises:
            UserError: If a shape is wrong.
        """
        shapes = tuple(mean.shape), tuple(covariance.shape)
        if shapes != ((self.target_dim,), (self.target_dim, self.target_dim)):
            raise UserError(
                f"Expected a mean and a covariance of {self.target_dim} values, got shapes "
                f"{shapes[0]} and {shapes[1]}."
            )
        variances, eigenvectors = torch.linalg.eigh(covariance.double() * self.target_dim)
        self.mean.copy_(mean * self.target_dim**0.5)
        self.eigenvectors.copy_(eigenvectors)
        self.variances.copy_(variances.clamp(min=_MIN_VARIANCE))

    def noise_variance(self, timesteps: Tensor) -> Tensor:
        """Return 1 - alpha_bar at timesteps, shape (n, 1), float32."""
        return 1 - _alphas_bar().to(timesteps.device)[timesteps.long(), None]

    def _noise(self, count: int, num_samples: int, generator: Generators | None) -> Tensor:
        """Draw the initial noise, shape (count, num_samples, target_dim), float32."""
        shape, dtype = (num_samples, self.target_dim), torch.float32
        if generator is None and num_samples == 1:
            return torch.zeros(count, *shape, dtype=dtype)
        if generator is None:
            fixed = torch.Generator().manual_seed(0)
            return torch.randn(shape, generator=fixed, dtype=dtype).expand(count, -1, -1)
        if isinstance(generator, torch.Generator):
            device = generator.device
            return torch.randn((count, *shape), generator=generator, device=device, dtype=dtype)
        if len(generator) != count:
            raise UserError(
                f"Expected one generator, or one for each of {count} embeds, got {len(generator)}."
            )
        drawn = [
            torch.randn(shape, generator=own, device=own.device, dtype=dtype) for own in generator
        ]
        return torch.stack([noise.cpu() for noise in drawn])

    def _denoise(
        self, noise: Tensor, units: Tensor, *, guidance_scale: float, num_inference_steps: int
    ) -> Tensor:
        """Denoise noise into vectors, in float32 regardless of the weights' dtype."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler(
            **_NOISE_SCHEDULE, algorithm_type="dpmsolver++", use_lu_lambdas=True
        )
        scheduler.set_timesteps(num_inference_steps, device=noise.device)
        # Count the steps: two of them may share a timestep, by which they would be looked up.
        scheduler.set_begin_index(0)
        cond_mask = torch.ones(len(units), dtype=torch.bool, device=units.device)
        vectors = noise
        for timestep in scheduler.timesteps:
            times = timestep.expand(len(units))
            noisy = vectors.to(self.dtype)
            predicted = self.predict(noisy, times, units, cond_mask).float()
            if guidance_scale != 1.0:
                unconditional = self.predict(noisy, times, units, ~cond_mask).float()
                predicted = unconditional + guidance_scale * (predicted - unconditional)
            vectors = scheduler.step(predicted, timestep, vectors, return_dict=False)[0]
        return vectors


@functools.cache
def _alphas_bar() -> Tensor:
    """Return alpha_bar at every timestep, shape (1000,), float32."""
    start, end = _NOISE_SCHEDULE["beta_start"], _NOISE_SCHEDULE["beta_end"]
    betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1 - betas, dim=0)


def _check_options(num_samples: int, guidance_scale: float, num_inference_steps: int) -> None:
    check_count("num_samples", num_samples, most=2**20)
    check_count("num_inference_steps", num_inference_steps, most=1000)
    if not is_number(guidance_scale) or guidance_scale < 0:
        raise UserError(
            f"Expected guidance_scale to be 0 or more, got {guidance_scale!r}.",
            param="guidance_scale",
        )
