"""Guidance of a diffusion sampler by similarity to embeddings: universal guidance."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
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
from clip2clap.media.images import to_pixels

# Root mean square of a gradient step of strength 1, in standard deviations of the latents.
_STEP = 0.04
MOST_STRENGTH = 100.0
"""Largest strength."""
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
    """Cutouts per gradient step; the first is always the whole output."""

    cut_size: int | None = None
    """Side of a cutout in pixels; the image's short side if None."""

    augment: bool = True
    """Mirror, rotate, shear and tint the cutouts at random."""

    total_variation: float = 0.0
    """Weight of the total variation; a larger weight gives a smoother image."""

    range_scale: float = 0.0
    """Weight of the squared distance of the latents from three standard deviations."""

    init_scale: float = 0.0
    """Weight of the perceptual distance from an initial image."""

    def __post_init__(self) -> None:
        for name, most in (("strength", MOST_STRENGTH), ("start", 1), ("end", 1)):
            value = getattr(self, name)
            holds = is_number(value) and 0 <= value <= most
            expect(holds, name, f"from 0 to {most:g}", value)
        expect(self.start < self.end, "start", "below end", self.start)
        for name in ("iterations", "cutouts", "cut_size"):
            value = getattr(self, name)
            is_count = value is None or (is_integer(value) and value >= 1)
            expect(is_count, name, "at least 1", value)
        for name in ("total_variation", "range_scale", "init_scale"):
            value = getattr(self, name)
            expect(is_number(value) and value >= 0, name, "0 or more", value)


class Guidance(ABC):
    """Guidance of a diffusion sampler towards, or away from, embeddings of one space.

    In each denoising step the predicted clean latents are moved along the gradient of a loss of
    their decoded output, and the prediction is changed to match: the backward guidance of Bansal et
    al. (2023), "Universal Guidance for Diffusion Models", https://arxiv.org/abs/2302.07121. The
    loss is that of `paint`: the weighted squared angle between targets and cutouts. The gradient is
    scaled to the same length in each step, so that a strength means the same for all targets.

    Args:
        targets: Targets of all outputs, of which those of weight 0 are left out; None for each
            output's own embedding.
        options: Options of guidance.
        on_outputs: Called after each guided step with the outputs of the moved latents.

    Raises:
        UserError: If there is no target, one is not a finite unit vector, or one is to be avoided
            and approached.
    """

    def __init__(
        self,
        targets: Sequence[Target] | None = None,
        options: GuidanceOptions | None = None,
        *,
        on_outputs: Callable[[Tensor], object] | None = None,
    ):
        self.options, self.on_outputs = options or GuidanceOptions(), on_outputs
        self.targets, self._vectors, self._weights = None, None, torch.ones(1)
        if targets is None:
            return
        kept = [target for target in targets if target.weight != 0]
        if not kept:
            raise UserError("Expected at least one target with a weight other than 0.")
        check_targets(kept, needs_positive=False)
        _check_contradictions(kept)
        self.targets = kept
        self._vectors = torch.stack([target.embed.float() for target in kept])
        weights = torch.tensor([target.weight for target in kept], dtype=torch.float32)
        self._weights = weights / weights.abs().sum()

    @abstractmethod
    def embed_cutouts(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Encode cutouts of one output, shape (cutouts, d), unit norm."""

    def penalty(self, output: Tensor) -> Tensor | float:
        """Compute what is added to the loss of one output."""
        return 0.0

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
        embeds: Tensor,
    ) -> Tensor:
        """Move predicted clean latents.

        Args:
            clean: Latents of unit scale, shape (n, channels, rows, columns).
            decode: Differentiable decoder to images (n, 3, height, width) in [0, 1], or waveforms
                (n, samples).
            generators: Generator of each row's cutouts, on the CPU.
            embeds: Each row's own embedding, shape (n, d).
        """
        moved, options = clean.detach(), self.options
        for _ in range(options.iterations):
            with torch.enable_grad():
                latents = moved.requires_grad_()
                rows = zip(decode(latents), generators, embeds, strict=True)
                losses = [self._loss(output[None], cuts, own) for output, cuts, own in rows]
                loss = torch.stack(losses).sum()
                if options.range_scale:
                    beyond = latents.abs().sub(3).clamp(min=0)
                    loss = loss + options.range_scale * beyond.square().mean()
                (slope,) = torch.autograd.grad(loss, latents)
            if not slope.isfinite().all():
                raise UserError(
                    "The gradient of the similarity is not finite. Use a number format of more "
                    "precision, such as torch_dtype=None.",
                    param="guidance",
                )
            size = slope.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            # Where nothing is to be gained, as for saturated pixels, nothing is moved.
            step = _STEP * options.strength * slope / size.clamp(min=1e-12)
            moved = (latents - torch.where(size > 0, step, 0)).detach()
        if self.on_outputs is not None:
            self.on_outputs(decode(moved))
        return moved

    def _loss(self, output: Tensor, generator: torch.Generator, embed: Tensor) -> Tensor:
        embeds = self.embed_cutouts(output, generator)
        targets = embed[None] if self._vectors is None else self._vectors
        angles = squared_angles(embeds, targets.to(embeds)) @ self._weights.to(embeds)
        return angles.mean() + self.penalty(output)


class SimilarityGuidance(Guidance):
    """Guidance of an image decoder by similarity to embeddings of one CLIP.

    Args:
        clip: CLIP that encodes pixels.
        targets: As for `Guidance`, in this CLIP's space.
        options: As for `Guidance`.
        init: Initial image, from which `init_scale` weighs the perceptual distance.
        perceptual: Differentiable distance of images (n, 3, h, w) in [0, 1], shape (n,), such as
            that of `clip2clap.metrics.perceptual`.
        on_outputs: As for `Guidance`.

    Raises:
        UserError: As for `Guidance`, or if `init_scale` lacks an image or a distance.

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
        (128, 128)
    """

    def __init__(
        self,
        clip: PixelEncoder,
        targets: Sequence[Target] | None = None,
        options: GuidanceOptions | None = None,
        *,
        init: Image.Image | None = None,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        on_outputs: Callable[[Tensor], object] | None = None,
    ):
        super().__init__(targets, options, on_outputs=on_outputs)
        self.clip, self.init, self.perceptual = clip, init, perceptual
        if self.options.init_scale and (init is None or perceptual is None):
            raise UserError(
                "It weighs the perceptual distance from an initial image: give the image and the "
                "distance.",
                param="init_scale",
            )
        self._start: Tensor | None = None

    def embed_cutouts(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Encode cutouts of an image, shape (1, 3, h, w)."""
        options = self.options
        size = options.cut_size or min(output.shape[-2:])
        cut = cut_out(output, options.cutouts, size, generator=generator, augment=options.augment)
        return self.clip.encode_pixels(cut, size=options.cut_size)

    def penalty(self, output: Tensor) -> Tensor | float:
        """Compute the weighted total variation and distance from the initial image."""
        found: Tensor | float = 0.0
        if self.options.total_variation:
            found = self.options.total_variation * total_variation(output)
        if self.options.init_scale and self.init is not None and self.perceptual is not None:
            height, width = output.shape[-2:]
            if self._start is None or self._start.shape[-2:] != (height, width):
                self._start = to_pixels([self.init], height, width)
            distance = self.perceptual(output, self._start.to(output)).mean()
            found = found + self.options.init_scale * distance
        return found


def _check_contradictions(targets: Sequence[Target]) -> None:
    for place, one in enumerate(targets):
        for other in targets[:place]:
            is_same = float(one.embed.float() @ other.embed.float()) > _SAME
            if is_same and one.weight * other.weight < 0:
                raise UserError(
                    f"The targets {other.name!r} and {one.name!r} are the same, and one is to be "
                    "avoided. Leave one out."
                )


def can_guide(scheduler: Any) -> bool:
    """Return True if a scheduler's latents have unit variance, which guidance needs."""
    return hasattr(scheduler, "alphas_cumprod") and float(scheduler.init_noise_sigma) == 1


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
    if not can_guide(scheduler):
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
