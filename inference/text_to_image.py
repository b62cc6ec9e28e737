"""Published text-to-image pipelines of diffusers."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image, ImageOps

from clip2clap.core.errors import CheckpointError, UserError, expect, is_number, with_article
from clip2clap.core.hub import quiet
from clip2clap.core.presets import resolve
from clip2clap.inference.loading.components import fastest_dtype, load_strictly
from clip2clap.inference.loading.files import explained, fetch_folder, read_index

# Networks that predict the noise, by whose config the size of images is known.
_DENOISERS = ("unet", "transformer")


class TextToImage:
    """Text-to-image pipeline of diffusers, which may start from images too.

    Args:
        pipeline: Any pipeline that `AutoPipelineForText2Image` knows.
        name_or_path: Name that it was loaded by.

    Examples:
        >>> from clip2clap.inference.text_to_image import TextToImage
        >>> model = TextToImage.from_pretrained("tiny-text-to-image")
        >>> model(["a dog barks"], generator=[0], num_inference_steps=1)[0].size
        (16, 16)
    """

    def __init__(self, pipeline: Any, name_or_path: str = ""):
        self.pipeline, self.name_or_path = pipeline, name_or_path

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype | str | None = "auto",
        **access: Any,
    ) -> Self:
        """Load a pipeline, each model with exactly its weights, from safetensors alone.

        Args:
            pretrained_model_name_or_path: Preset, hub id or folder.
            torch_dtype: Dtype, None for float32, or `"auto"`: `fastest_dtype()`.
            **access: `revision`, `token` and `local_files_only`.

        Raises:
            CheckpointError: If it is no text-to-image pipeline, or weights are missing or damaged.
            ModelNotFoundError: If there is none, or the hub cannot be reached.
        """
        from diffusers import AutoPipelineForText2Image
        from diffusers.pipelines import auto_pipeline

        given = os.fspath(pretrained_model_name_or_path)
        name = resolve(given, "text_model")
        dtype: Any = fastest_dtype() if torch_dtype == "auto" else torch_dtype or torch.float32
        index = read_index(fetch_folder(name, kind="text_model", **access))
        known: Any = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
        if index.get("_class_name") not in [each.__name__ for each in known.values()]:
            raise CheckpointError(
                f"{given} holds {with_article(str(index.get('_class_name')))}, which is no "
                "text-to-image pipeline of diffusers. Name one, such as stable-diffusion-1-5."
            )
        parts = {part: value for part, value in index.items() if _is_component(value)}
        folder = fetch_folder(name, list(parts), kind="text_model", **access)
        models = _load_models(folder, parts, dtype)
        with explained(f"The text-to-image pipeline {given}"):
            pipeline = AutoPipelineForText2Image.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **models
            )
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, given)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels that it was trained on; None if unknown."""
        for name in _DENOISERS:
            config: Any = getattr(getattr(self.pipeline, name, None), "config", {})
            side, factor = config.get("sample_size"), getattr(self.pipeline, "vae_scale_factor", 0)
            if side and factor:
                sides = (side, side) if isinstance(side, int) else tuple(side)
                return sides[1] * factor, sides[0] * factor
        return None

    def to(self, device: torch.device | str) -> Self:
        """Move all models to a device."""
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        *,
        images: Sequence[Image.Image] | None = None,
        strength: float = 0.8,
        generator: Sequence[torch.Generator | int],
        batch_size: int = 4,
        **options: Any,
    ) -> list[Image.Image]:
        """Generate an image of each prompt.

        Args:
            prompts: Prompts.
            images: Images to start from, one for each prompt, cropped to the size.
            strength: Fraction of the denoising that is applied to them, from 0 to 1; at 0 they are
                returned at the pipeline's size.
            generator: Generator or seed of each image.
            batch_size: Number of images generated at once.
            **options: Arguments of the pipeline's call, such as `num_inference_steps`; None is its
                own default.

        Raises:
            UserError: If the pipeline has no such argument, or cannot start from images.
        """
        expect(is_number(strength) and 0 <= strength <= 1, "strength", "from 0 to 1", strength)
        options = {name: value for name, value in options.items() if value is not None}
        own = self.size or (None, None)
        size = options.get("width", own[0]), options.get("height", own[1])
        pipeline = self.pipeline
        if images is not None:
            images = [_fitted(each, size) for each in images]
            pipeline = self._image_to_image()
            if int(_steps(pipeline, options) * strength) < 1:
                return images
        accepted = inspect.signature(pipeline.__call__).parameters
        for name in options.keys() - accepted.keys():
            # Only the callback may be left out, and the size of images that have it.
            if name != "callback_on_step_end" and (images is None or name not in _SIZE):
                raise UserError(f"{type(pipeline).__name__} takes no {name}.", param=name)
        kept = {name: value for name, value in options.items() if name in accepted}
        made: list[Image.Image] = []
        for at in range(0, len(prompts), batch_size):
            rows = slice(at, at + batch_size)
            seeded = [_generator(each) for each in generator[rows]]
            call: dict[str, Any] = {"prompt": list(prompts[rows]), "generator": seeded, **kept}
            if "negative_prompt" in kept:
                call["negative_prompt"] = [kept["negative_prompt"]] * len(seeded)
            if images is not None:
                call |= {"image": list(images[rows]), "strength": strength}
            made += pipeline(**call).images
        return made

    def _image_to_image(self) -> Any:
        """Return the image-to-image pipeline of the same models."""
        from diffusers import AutoPipelineForImage2Image

        try:
            with quiet():
                pipeline = AutoPipelineForImage2Image.from_pipe(self.pipeline)
        except ValueError as error:
            raise UserError(
                f"diffusers starts from no image with {type(self.pipeline).__name__}. Generate "
                "from the prompt alone."
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


_SIZE = ("width", "height")


def _is_component(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] is not None


def _load_models(
    folder: Path, parts: Mapping[str, Sequence[str]], dtype: torch.dtype
) -> dict[str, Any]:
    """Load the networks of a pipeline strictly; diffusers loads the rest."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    bases = diffusers.ModelMixin, transformers.PreTrainedModel
    models = {}
    for part, (library, class_name) in parts.items():
        model_class = getattr(libraries.get(library), class_name, None)
        if inspect.isclass(model_class) and issubclass(model_class, bases):
            models[part] = load_strictly(
                model_class, folder / part, dtype=dtype, use_safetensors=True
            )
    return models


def _fitted(image: Image.Image, size: tuple[int | None, int | None]) -> Image.Image:
    sides = size[0] or image.width, size[1] or image.height
    return ImageOps.fit(image.convert("RGB"), sides, Image.Resampling.LANCZOS)


def _steps(pipeline: Any, options: Mapping[str, Any]) -> int:
    default = inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default
    return options.get("num_inference_steps", default)


def _generator(given: torch.Generator | int) -> torch.Generator:
    return given if isinstance(given, torch.Generator) else torch.Generator().manual_seed(given)
