"""Unconditional diffusion of pixels, which guidance alone steers."""

import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import expect, is_integer, is_number
from clip2clap.inference.denoising import LatentDiffusion, Request, Tensors
from clip2clap.inference.loading.guided_diffusion import load_guided_diffusion
from clip2clap.inference.similarity_guidance import SimilarityGuidance
from clip2clap.media.images import to_images, to_pixels


class UnconditionalDiffusion(LatentDiffusion):
    """Unconditional diffusion model of pixels.

    Args:
        unet: `UNet2DModel`; channels beside the image's predict a variance, which is not used.
        scheduler: Scheduler of latents whose variance stays 1; DDIM on the linear schedule of
            guided diffusion by default.

    Examples:
        >>> from diffusers import UNet2DModel
        >>> from clip2clap.inference.unconditional import UnconditionalDiffusion
        >>> blocks = {"block_out_channels": (32, 32), "layers_per_block": 1}
        >>> types = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        >>> unet = UNet2DModel(sample_size=16, **blocks, **types)
        >>> model = UnconditionalDiffusion(unet)
        >>> model([0, 1], num_inference_steps=2)[0].size
        (16, 16)
    """

    def __init__(self, unet: Any, scheduler: Any = None):
        from diffusers import DDIMScheduler

        if scheduler is None:
            scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
        super().__init__(SimpleNamespace(unet=unet, scheduler=scheduler, _execution_device="cpu"))

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> Self:
        """Load a checkpoint as `load_guided_diffusion` does; its errors are those of it."""
        model = cls(load_guided_diffusion(path).to(device))
        model.parts._execution_device = device
        return model

    @property
    def size(self) -> int:
        """Height and width in pixels that it was trained on."""
        return self.parts.unet.config["sample_size"]

    @property
    def multiple(self) -> int:
        """Divisor of height and width, in pixels."""
        return 2 ** (len(self.parts.unet.config["block_out_channels"]) - 1)

    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Return no conditional tensors, and None."""
        return {}, None

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return no keyword arguments."""
        return {}

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Scale images (n, 3, height, width) from [0, 1] to [-1, 1]."""
        return pixels * 2 - 1

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Scale values from [-1, 1] to images in [0, 1]; the gradient ignores the clamping."""
        pixels = latents.float() / 2 + 0.5
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    def __call__(
        self,
        generator: Sequence[torch.Generator | int],
        *,
        guidance: SimilarityGuidance | None = None,
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        image: Image.Image | None = None,
        strength: float = 0.8,
        eta: float = 0.0,
        on_step: Callable[[int], object] | None = None,
    ) -> list[Image.Image]:
        """Generate an image per generator.

        Args:
            generator: Generators or seeds.
            guidance: Targets that the sampler is guided to by their similarity.
            num_inference_steps: Number of denoising steps.
            height: Height in pixels; by default that of training.
            width: Width in pixels, likewise.
            image: Image to start from, cropped to the size.
            strength: Fraction of `image` to replace, from 0 to 1.
            eta: Noise that DDIM adds, from 0 to 1.
            on_step: Called with the number of steps that are done.

        Raises:
            UserError: If an argument is invalid.
        """
        height, width = height or self.size, width or self.size
        self._check(height, width, num_inference_steps, strength=strength, eta=eta)
        own = [
            each if isinstance(each, torch.Generator) else torch.Generator().manual_seed(each)
            for each in generator
        ]
        call = SimpleNamespace(
            num_inference_steps=num_inference_steps,
            start_strength=None if image is None else strength,
            eta=eta,
            guidance=guidance,
            guidance_scale=1.0,
            guidance_interval=(0.0, 1.0),
            cache_interval=1,
        )
        start = None
        if image is not None:
            start = to_pixels([image], height, width).expand(len(own), -1, -1, -1)
        shape = (self.parts.unet.config["in_channels"], height, width)
        none = torch.zeros(len(own), 0)
        request = Request(call, shape, none, none, own, image=start)

        def step(index: int, timestep: Tensor, tensors: Tensors) -> Tensors:
            if on_step is not None:
                on_step(index + 1)
            return {}

        return to_images(self.to_pixels(self.generate(request, step)).cpu())

    def _check(self, height: int, width: int, steps: int, **shares: float) -> None:
        for name, side in (("height", height), ("width", width)):
            expect(side % self.multiple == 0, name, f"a multiple of {self.multiple} pixels", side)
        is_steps = is_integer(steps) and 1 <= steps <= 1000
        expect(is_steps, "num_inference_steps", "from 1 to 1000", steps)
        for name, value in shares.items():
            expect(is_number(value) and 0 <= value <= 1, name, "from 0 to 1", value)
