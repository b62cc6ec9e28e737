"""Route from audio to images by way of words: descriptions as prompts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import expect
from clip2clap.core.math import unit_norm
from clip2clap.inference.noise import second_generators, spread_generators
from clip2clap.inference.outputs import AudioToImageOutput

if TYPE_CHECKING:
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.inputs import AudioSource
    from clip2clap.inference.text_to_image import TextToImage


class WordsRoute:
    """Audio-to-image generation whose prompts describe the audio.

    With a text-to-image model the prompt is all that the image is made of, or, mixed, the image
    that the decoder makes of the translated embedding is changed by the model towards the prompt.
    Without one, the decoder gets the prompt beside the embedding.

    Args:
        pipeline: Pipeline whose CLAP encodes the audio, and whose CLIP ranks the images.
        describe: Returns a prompt for each CLAP embedding, shape (n, d).
        model: Text-to-image model.
        mixed: Start from the decoder's image.
        model_options: Arguments of the model's calls.

    Raises:
        UserError: If the routes are to be mixed without a model.

    Examples:
        >>> from clip2clap import AudioToImagePipeline
        >>> from clip2clap.inference.words_route import WordsRoute
        >>> pipe = AudioToImagePipeline.from_pretrained("demo")
        >>> route = WordsRoute(pipe, lambda embeds: ["a dog"] * len(embeds))
        >>> route("bark.wav", num_inference_steps=2, prompt_weight=1).prompts
        ['a dog']
    """

    def __init__(
        self,
        pipeline: "AudioToImagePipeline",
        describe: Callable[[Tensor], Sequence[str]],
        model: "TextToImage | None" = None,
        *,
        mixed: bool = False,
        **model_options: Any,
    ):
        expect(model is not None or not mixed, "mixed", "used with a text-to-image model", mixed)
        self.pipeline, self.describe, self.model = pipeline, describe, model
        self.mixed, self.model_options = mixed, model_options

    def __call__(
        self,
        audios: "AudioSource | Sequence[AudioSource]",
        *,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        num_candidates: int = 1,
        image: Image.Image | None = None,
        strength: float = 0.8,
        batch_size: int = 4,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        **options: Any,
    ) -> AudioToImageOutput:
        """Generate images of audio; the output has the prompts.

        Args:
            audios: As for `AudioToImagePipeline`.
            generator: One generator, or one per item. The text-to-image model draws from others
                that are derived from these where the routes are mixed.
            num_candidates: Images per item.
            image: Image to start from.
            strength: Fraction of it, or of the decoder's image, to replace.
            batch_size: Number of images generated at once.
            callback_on_step_end: As for `AudioToImagePipeline`.
            **options: Further arguments of the pipeline's call.

        Raises:
            UserError: As for `AudioToImagePipeline` and `TextToImage`.
        """
        embeds = self.pipeline.encode_audio(audios)
        prompts = list(self.describe(embeds))
        shared: dict[str, Any] = {"batch_size": batch_size}
        if callback_on_step_end is not None:
            shared["callback_on_step_end"] = callback_on_step_end
        own = spread_generators(generator, len(prompts), num_candidates)
        start: Any = None if image is None else [image] * len(own)
        if self.model is None or self.mixed:
            second = second_generators(own)
            decoded = self.pipeline(
                audio_embeds=embeds,
                prompt=None if self.mixed else prompts,
                image=image,
                strength=strength,
                num_candidates=num_candidates,
                generator=generator,
                **shared,
                **options,
            )
            if self.model is None:
                return replace(decoded, prompts=prompts)
            own, start = second, list(decoded.images)
        images = self.model(
            [prompt for prompt in prompts for _ in range(num_candidates)],
            images=start,
            strength=strength,
            generator=own,
            **shared,
            **self.model_options,
        )
        image_embeds = unit_norm(self.pipeline.translate(embeds))
        return AudioToImageOutput(images, image_embeds, self._rank(images, image_embeds), prompts)

    def _rank(self, images: list[Image.Image], embeds: Tensor) -> Tensor | None:
        clip = self.pipeline.clip
        if clip is None or "image" not in clip.modalities:
            return None
        return self.pipeline.rank(images, embeds)[1]
