"""Guidance of a diffusion sampler by similarity to embeddings: universal guidance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, expect, is_integer, is_number
from clip2clap.inference.painting.cutouts import cut_out
from clip2clap.inference.painting.paint import (
    PixelEncoder,
    Target,
    check_targets,
    squared_angles,
    total_variation,
)

# Root mean square of a gradient step of strength 1, in standard deviations of the latents.
_STEP = 0.04
_MOST_STRENGTH = 100.0
# Cosine similarity above which two targets are one.
_SAME = 0.9999


@dataclass(frozen=True)
class GuidanceOptions:
    """Options of similarity guidance.

    Raises:
        UserError: If an option is out of range.

    Examples:
        >>> from clip2clap.inference.similarity_guidance import GuidanceOptions
        >>> GuidanceOptions(strength=2).iterations
        3
    """

    strength: float = 1.0
    """Length of the gradient steps; at 0 the sampler is the plain one."""

    iterations: int = 3
    """Gradient steps per denoising step."""

    start: float = 0.0
    """Fraction of the denoising steps from which guidance is on."""

    end: float = 1.0
    """Fraction of the denoising steps up to which guidance is on."""

    cutouts: int = 8
    """Cutouts per gradient step; the first is always the whole image."""

    cut_size: int | None = None
    """Side of a cutout in pixels; the image's short side if None."""

    augment: bool = True
    """Mirror, rotate, shear and tint the cutouts at random."""

    total_variation: float = 0.0
    """Weight of the total variation; a larger weight gives a smoother image."""

    range_scale: float = 0.0
    """Weight of the squared distance of the latents from three standard deviations."""

    def __post_init__(self) -> None:
        for name, most in (("strength", _MOST_STRENGTH), ("start", 1), ("end", 1)):
            value = getattr(self, name)
            holds = is_number(value) and 0 <= value <= most
            expect(holds, name, f"from 0 to {most:g}", value)
        expect(self.start < self.end, "start", "below end", self.start)
        for name in ("iterations", "cutouts", "cut_size"):
            value = getattr(self, name)
            is_count = value is None or (is_integer(value) and value >= 1)
            expect(is_count, name, "at least 1", value)
        for name in ("total_variation", "range_scale"):
            value = getattr(self, name)
            expect(is_number(value) and value >= 0, name, "0 or more", value)


class SimilarityGuidance:
    """Guidance of a diffusion sampler towards, or away from, embeddings of one CLIP.

    In each denoising step the predicted clean latents are moved along the gradient of a loss of
    their decoded image, and the prediction is changed to match: the backward guidance of Bansal et
    al. (2023), "Universal Guidance for Diffusion Models", https://arxiv.org/abs/2302.07121. The
    loss is that of `paint`: the weighted squared angle between targets and cutouts. The gradient is
    scaled to the same length in each step, so that a strength means the same for all targets.

    Args:
        clip: CLIP that encodes pixels.
        targets: Targets in this CLIP's space; those of weight 0 are left out.
        options: Options of guidance.

    Raises:
        UserError: If there is no target, one is not a finite unit vector, or one is to be avoided
            and approached.

    Examples:
        >>> from clip2clap import AudioToImagePipeline
        >>> from clip2clap.inference import Target
        >>> from clip2clap.inference.similarity_guidance import GuidanceOptions, SimilarityGuidance
        >>> pipe = AudioToImagePipeline.from_pretrained("demo")
        >>> embed = pipe.encode_text(["a photo of a dog"])
        >>> options = GuidanceOptions(iterations=1, cutouts=1)
        >>> guidance = SimilarityGuidance(pipe.clip, [Target(embed[0])], options)
        >>> image_embeds = {"image_embeds": embed, "num_inference_steps": 2}
        >>> pipe(**image_embeds, guidance=guidance).images[0].size
        (64, 64)
    """

    def __init__(
        self,
        clip: PixelEncoder,
        targets: Sequence[Target],
        options: GuidanceOptions | None = None,
    ):
        kept = [target for target in targets if target.weight != 0]
        if not kept:
            raise UserError("Expected at least one target with a weight other than 0.")
        check_targets(kept, needs_positive=False)
        _check_contradictions(kept)
        self.clip, self.targets, self.options = clip, kept, options or GuidanceOptions()
        self._vectors = torch.stack([target.embed.float() for target in kept])
        weights = torch.tensor([target.weight for target in kept], dtype=torch.float32)
        self._weights = weights / weights.abs().sum()

    @property
    def is_on(self) -> bool:
        """True if it changes anything."""
        return self.options.strength > 0

    def steps(self, num_steps: int) -> range:
        """Return the indices of the denoising steps that are guided."""
        start, end = self.options.start, self.options.end
        return range(math.ceil(start * num_steps), math.ceil(end * num_steps))

    def __call__(
        self,
        clean: Tensor,
        decode: Callable[[Tensor], Tensor],
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Move predicted clean latents.

        Args:
            clean: Latents of unit scale, shape (n, channels, rows, columns).
            decode: Differentiable decoder to images (n, 3, height, width) in [0, 1].
            generators: Generator of each row's cutouts, on the CPU.
        """
        moved, options = clean.detach(), self.options
        for _ in range(options.iterations):
            with torch.enable_grad():
                latents = moved.requires_grad_()
                pixels = decode(latents)
                rows = zip(pixels, generators, strict=True)
                loss = torch.stack([self._loss(image[None], own) for image, own in rows]).sum()
                if options.range_scale:
                    beyond = latents.abs().sub(3).clamp(min=0)
                    loss = loss + options.range_scale * beyond.square().mean()
                (slope,) = torch.autograd.grad(loss, latents)
            size = slope.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            # Where nothing is to be gained, as for saturated pixels, nothing is moved.
            step = _STEP * options.strength * slope / size.clamp(min=1e-12)
            moved = (latents - torch.where(size > 0, step, 0)).detach()
        return moved

    def _loss(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        options = self.options
        size = options.cut_size or min(pixels.shape[-2:])
        cut = cut_out(pixels, options.cutouts, size, generator=generator, augment=options.augment)
        embeds = self.clip.encode_pixels(cut, size=options.cut_size)
        angles = squared_angles(embeds, self._vectors.to(embeds)) @ self._weights.to(embeds)
        loss = angles.mean()
        if options.total_variation:
            loss = loss + options.total_variation * total_variation(pixels)
        return loss


def _check_contradictions(targets: Sequence[Target]) -> None:
    for place, one in enumerate(targets):
        for other in targets[:place]:
            is_same = float(one.embed.float() @ other.embed.float()) > _SAME
            if is_same and one.weight * other.weight < 0:
                raise UserError(
                    f"The targets {other.name!r} and {one.name!r} are the same, and one is to be "
                    "avoided. Leave one out."
                )


def guided_prediction(
    scheduler: Any,
    predicted: Tensor,
    timestep: Tensor,
    latents: Tensor,
    move: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return a model's output whose clean latents are those of another one, moved.

    Args:
        scheduler: Scheduler of latents whose variance stays 1, as DDIM's and DPM-Solver++'s.
        predicted: Output of the model: noise, v or clean latents, by the scheduler's config.
        timestep: Timestep.
        latents: Noisy latents that the model saw.
        move: Moves clean latents.

    Raises:
        UserError: If the scheduler scales latents otherwise.
    """
    if not hasattr(scheduler, "alphas_cumprod") or float(scheduler.init_noise_sigma) != 1:
        raise UserError(
            f"Guidance needs a scheduler whose latents have unit variance, such as DDIM or "
            f"DPM-Solver++, got {type(scheduler).__name__}."
        )
    alpha_bar = scheduler.alphas_cumprod[int(timestep)].to(latents)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    kind = scheduler.config["prediction_type"]
    if kind == "sample":
        return move(predicted)
    if kind == "v_prediction":
        clean = alpha * latents - sigma * predicted
    else:
        clean = (latents - sigma * predicted) / alpha
    clean = move(clean)
    noise = (latents - alpha * clean) / sigma
    return noise if kind == "epsilon" else alpha * noise - sigma * clean
