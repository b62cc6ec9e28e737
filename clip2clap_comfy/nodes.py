"""Nodes by ComfyUI's conventions: images are (batch, height, width, 3), audio has a waveform.

IMAGE is a tensor in [0, 1]; AUDIO a dictionary with a waveform, shape (batch, channels, samples),
and its sample_rate. Models are loaded once for each set of names.
"""

import functools
from pathlib import Path
from typing import Any, ClassVar

import torch

from clip2clap import AudioToImagePipeline, ImageToAudioPipeline, write_audio

_GENERATOR, _DECODER, _EMBEDS = "CLIP2CLAP_GENERATOR", "CLIP2CLAP_DECODER", "CLIP2CLAP_EMBEDS"
_LARGEST_SEED = 2**63 - 1


def _text(default: str = "", tooltip: str = "") -> tuple[Any, ...]:
    return ("STRING", {"default": default, "tooltip": tooltip})


def _whole(default: int, least: int, most: int) -> tuple[Any, ...]:
    return ("INT", {"default": default, "min": least, "max": most})


_SEED = _whole(0, 0, _LARGEST_SEED)
_STEPS = ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0 for the model's own number."})


@functools.lru_cache(maxsize=2)
def _load(pipeline_class: Any, name: str, translator: str) -> Any:
    pipeline = pipeline_class.from_pretrained(name, translator=translator or None)
    pipeline.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipeline.to("cuda")
    return pipeline


def _watched(pipeline: Any, batches: int = 1) -> Any:
    """Return a callback that moves ComfyUI's progress bar, and stops where its user cancels."""
    from comfy.model_management import (  # pyright: ignore[reportMissingImports]
        throw_exception_if_processing_interrupted,
    )
    from comfy.utils import ProgressBar  # pyright: ignore[reportMissingImports]

    bars: list[Any] = []

    def on_step(pipeline: Any, *_: Any) -> dict[str, Any]:
        throw_exception_if_processing_interrupted()
        if not bars:
            bars.append(ProgressBar(batches * pipeline.num_timesteps))
        bars[0].update(1)
        return {}

    return on_step


class _Node:
    """Node in this pack's category, whose inputs stand in `inputs`."""

    CATEGORY = "clip2clap"
    RETURN_TYPES: tuple[str, ...] = ()
    inputs: ClassVar[dict[str, tuple[Any, ...]]]
    """Required inputs, by name, with their types and options."""
    optional: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        """Return the inputs."""
        return {"required": dict(cls.inputs), "optional": dict(cls.optional)}


class LoadGenerator(_Node):
    """Node that loads an image-to-audio pipeline."""

    RETURN_TYPES = (_GENERATOR,)
    RETURN_NAMES = ("generator",)
    FUNCTION = "load"
    inputs: ClassVar = {"name": _text("demo", "demo, a preset, a hub id or a folder.")}
    optional: ClassVar = {"translator": _text()}

    def load(self, name: str, translator: str = "") -> tuple[Any]:
        """Load the pipeline."""
        return (_load(ImageToAudioPipeline, name, translator),)


class LoadDecoder(LoadGenerator):
    """Node that loads an audio-to-image pipeline."""

    RETURN_TYPES = (_DECODER,)
    RETURN_NAMES = ("decoder",)

    def load(self, name: str, translator: str = "") -> tuple[Any]:
        """Load the pipeline."""
        return (_load(AudioToImagePipeline, name, translator),)


class ImageToSound(_Node):
    """Node that generates audio for each image, its variations side by side, the best first."""

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "generate"
    inputs: ClassVar = {
        "generator": (_GENERATOR,),
        "image": ("IMAGE",),
        "seconds": ("FLOAT", {"default": 5.0, "min": 0.1, "max": 60.0, "step": 0.1}),
        "variations": _whole(1, 1, 16),
        "seed": _SEED,
        "steps": _STEPS,
    }
    optional: ClassVar = {"negative": _text(tooltip="What it should not sound like.")}

    def generate(
        self,
        generator: Any,
        image: torch.Tensor,
        seconds: float,
        variations: int,
        seed: int,
        steps: int,
        negative: str = "",
    ) -> tuple[dict[str, Any]]:
        """Generate the audio."""
        candidates = max(variations, int(generator.config["default_num_candidates"]))
        output = generator(
            [each.cpu().numpy() for each in image],
            audio_length_in_s=seconds,
            num_variations=variations,
            num_candidates=candidates,
            num_inference_steps=steps or None,
            negative_prompt=negative or None,
            generator=[seed + number for number in range(len(image))],
            output_type="pt",
            callback_on_step_end=_watched(generator, -(-len(image) * candidates // 8)),
        )
        return ({"waveform": output.audios[:, None], "sample_rate": output.sampling_rate},)


class SoundToImage(_Node):
    """Node that generates images of each audio."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"
    inputs: ClassVar = {
        "decoder": (_DECODER,),
        "audio": ("AUDIO",),
        "count": _whole(1, 1, 16),
        "seed": _SEED,
        "steps": _STEPS,
    }

    def generate(
        self, decoder: Any, audio: dict[str, Any], count: int, seed: int, steps: int
    ) -> tuple[torch.Tensor]:
        """Generate the images."""
        sources = _mono(audio)
        output = decoder(
            sources,
            num_candidates=count,
            num_inference_steps=steps or None,
            generator=[seed + number for number in range(len(sources))],
            output_type="pt",
            callback_on_step_end=_watched(decoder, -(-len(sources) * count // 8)),
        )
        return (output.images.permute(0, 2, 3, 1).float().cpu(),)


class Translate(_Node):
    """Node that translates images into the generator's CLAP space."""

    RETURN_TYPES = (_EMBEDS,)
    RETURN_NAMES = ("embeds",)
    FUNCTION = "translate"
    inputs: ClassVar = {"generator": (_GENERATOR,), "image": ("IMAGE",)}

    def translate(self, generator: Any, image: torch.Tensor) -> tuple[torch.Tensor]:
        """Return embeddings, shape (n, d)."""
        embeds = generator.encode_image([each.cpu().numpy() for each in image])
        return (generator.translate(embeds),)


class Rank(_Node):
    """Node that sorts audio by its similarity to one translated image, the most similar first."""

    RETURN_TYPES = ("AUDIO", "STRING")
    RETURN_NAMES = ("audio", "similarities")
    FUNCTION = "rank"
    inputs: ClassVar = {"generator": (_GENERATOR,), "audio": ("AUDIO",), "embeds": (_EMBEDS,)}

    def rank(
        self, generator: Any, audio: dict[str, Any], embeds: torch.Tensor
    ) -> tuple[dict[str, Any], str]:
        """Sort the audio."""
        encoder = generator.ranker or generator.generator_clap.load_audio_encoder()
        encoded = encoder.encode_audio(_mono(audio))
        similarities = torch.nn.functional.cosine_similarity(encoded, embeds[:1])
        order = similarities.argsort(descending=True, stable=True)
        text = ", ".join(f"{value:.3f}" for value in similarities[order].tolist())
        return {**audio, "waveform": audio["waveform"][order]}, text


class SaveSound(_Node):
    """Node that writes audio into ComfyUI's output folder."""

    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True
    inputs: ClassVar = {
        "audio": ("AUDIO",),
        "filename_prefix": _text("clip2clap"),
        "format": (["flac", "wav", "ogg", "mp3", "opus"],),
    }

    def save(self, audio: dict[str, Any], filename_prefix: str, format: str) -> dict[str, Any]:
        """Write the files, and return what ComfyUI shows."""
        import folder_paths  # pyright: ignore[reportMissingImports]

        folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        shown = []
        for number, waveform in enumerate(audio["waveform"], counter):
            name = f"{stem}_{number:05}_.{format}"
            write_audio(Path(folder) / name, waveform.float().cpu(), int(audio["sample_rate"]))
            shown.append({"filename": name, "subfolder": subfolder, "type": "output"})
        return {"ui": {"audio": shown}}


def _mono(audio: dict[str, Any]) -> list[tuple[Any, int]]:
    """Return waveforms, shape (samples,), with their rates."""
    rate = int(audio["sample_rate"])
    return [(each.mean(0).float().cpu().numpy(), rate) for each in audio["waveform"]]


NODE_CLASS_MAPPINGS = {
    "Clip2clapLoadGenerator": LoadGenerator,
    "Clip2clapLoadDecoder": LoadDecoder,
    "Clip2clapImageToSound": ImageToSound,
    "Clip2clapSoundToImage": SoundToImage,
    "Clip2clapTranslate": Translate,
    "Clip2clapRank": Rank,
    "Clip2clapSaveSound": SaveSound,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "Clip2clapLoadGenerator": "Load sound generator (clip2clap)",
    "Clip2clapLoadDecoder": "Load image decoder (clip2clap)",
    "Clip2clapImageToSound": "Image to sound (clip2clap)",
    "Clip2clapSoundToImage": "Sound to image (clip2clap)",
    "Clip2clapTranslate": "Translate image (clip2clap)",
    "Clip2clapRank": "Rank sounds (clip2clap)",
    "Clip2clapSaveSound": "Save sound (clip2clap)",
}
