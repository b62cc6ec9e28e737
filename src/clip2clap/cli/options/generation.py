"""Options of the verbs that generate: demo, image-to-audio, audio-to-image and paint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip2clap.cli.command import argument, option
from clip2clap.cli.options.common import (
    CONDITION,
    FILES,
    MODELS,
    RUNNING,
    SAMPLING,
    BatchSize,
    Clap,
    Clip,
    Decoder,
    Device,
    Dtype,
    Duration,
    Generator,
    Json,
    Output,
    Overwrite,
    Seed,
    Steps,
    Translator,
)

OffloadName = Literal["none", "model", "sequential"]
SchedulerName = Literal["default", "ddim", "unipc", "euler", "pndm"]
AudioFormat = Literal["wav", "flac", "ogg"]
ImageFormat = Literal["png", "jpg", "webp"]

FILM = "Film"
PAINTING = "Painting"


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """Images to generate from."""

    inputs: list[str] | None = argument(
        "Images: files, folders, http(s) URLs. JPEG, PNG, WebP, GIF, TIFF.", "INPUT", api=["images"]
    )


@dataclass(frozen=True, kw_only=True)
class AudioInputs:
    """Audio to generate from."""

    inputs: list[str] | None = argument(
        "Audio: files and folders. WAV, FLAC, OGG, MP3, M4A; MP4, MKV, WebM.",
        "INPUT",
        api=["audios"],
    )


@dataclass(frozen=True, kw_only=True)
class DemoInput:
    """Image of the demo."""

    image: str | None = argument("Image file or URL; by default a cat named Chelsea.", "IMAGE")


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions(Generator, Clip, Translator):
    """Models of `image-to-audio`."""

    ranker: str | None = option(
        "CLAP with an audio encoder to rank candidates with.", "NAME", panel=MODELS
    )
    ranker_translator: str | None = option(
        "Translator from the CLIP into the ranker's CLAP.", "NAME", panel=MODELS
    )


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(Decoder, Clip, Clap, Translator):
    """Models of `audio-to-image`."""

    ip_adapter: str | None = option(
        "IP-Adapter for Stable Diffusion: .safetensors file, or OWNER/REPOSITORY/PATH on the hub.",
        "NAME",
        panel=MODELS,
    )
    offload: OffloadName = option(
        "Keep on the GPU only the model that is running, or only its layer.",
        default="none",
        panel=RUNNING,
    )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Steps, Seed):
    """Sampling of either pipeline."""

    prompt: list[str] | None = option(
        "Text prompt. image-to-audio: instead of images, may be given several times; "
        "audio-to-image: beside the audio.",
        "TEXT",
        panel=CONDITION,
    )
    negative_prompt: str | None = option("Text to guide away from.", "TEXT", panel=CONDITION)
    guidance_scale: float | None = option(
        "Classifier-free guidance scale; 1 turns guidance off.", "X", panel=SAMPLING, min=0
    )
    scheduler: SchedulerName = option(
        "Solver; default is the model's own, a DPM-Solver++ for few steps.",
        default="default",
        panel=SAMPLING,
    )
    num_candidates: int | None = option(
        "Candidates per input; those closest to the condition are kept. By default the pipeline's "
        "own number, for images --num-images.",
        "N",
        panel=SAMPLING,
        was=["--candidates"],
        min=1,
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Duration):
    """Condition and size of generated images."""

    mix: list[str] | None = option(
        "Mix this audio in, instead of INPUT; give it several times.",
        "FILE:WEIGHT",
        panel=CONDITION,
    )
    start_s: float = option(
        "Start in the audio, in seconds.",
        "S",
        default=0.0,
        panel=CONDITION,
        was=["--start"],
        api=["audio_start_in_s"],
        min=0,
    )
    prompt_weight: float | None = option(
        "Weight of the prompt in the embedding; by default 0.3, or 0 for a decoder with a text "
        "encoder.",
        "X",
        panel=CONDITION,
        min=0,
        max=1,
    )
    strength: float = option(
        "Share of the denoising that is applied to --init-image; at 1 nothing of it is left.",
        "X",
        default=0.8,
        panel=CONDITION,
        min=0,
        max=1,
    )
    label_file: Path | None = option(
        "Labels, one a line, of which the nearest are printed; by default the demo's 23 classes.",
        "FILE",
        panel=CONDITION,
        was=["--names"],
        api=["names", "labels"],
    )
    num_images: int = option(
        "Images per input, the one closest to the condition first.",
        "N",
        default=1,
        panel=SAMPLING,
        was=["--images"],
        min=1,
    )


@dataclass(frozen=True, kw_only=True)
class InitImage:
    """Initial image; the last option group of a verb, since a target of paint was `--image` too."""

    init_image: str | None = option(
        "Image to start from: file or URL.",
        "FILE",
        panel=CONDITION,
        was=["--image", "--init"],
        api=["image"],
    )


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of images."""

    height: int | None = option(
        "Height in pixels; by default what the model was trained on.", "N", panel=SAMPLING, min=1
    )
    width: int | None = option(
        "Width in pixels; by default what the model was trained on.", "N", panel=SAMPLING, min=1
    )


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """Films of `audio-to-image --film`."""

    film: bool = option(
        "Make films that follow the audio: one per input into a folder, or one of all inputs, one "
        "after another, into an .mp4 file.",
        default=False,
        panel=FILM,
    )
    fps: float = option("Frames per second.", "N", default=8.0, panel=FILM, min=0, max=120)
    film_size: str | None = option(
        "Film size in pixels, to which frames are scaled; even numbers.",
        "WxH",
        panel=FILM,
        was=["--size"],
    )
    window: float = option(
        "Audio window per frame, in seconds.",
        "S",
        default=2.0,
        panel=FILM,
        api=["window_in_s"],
        above=0,
    )
    smoothing: float = option(
        "Standard deviation of the smoothing over time, in seconds.",
        "S",
        default=0.5,
        panel=FILM,
        api=["smoothing_in_s"],
        min=0,
    )
    crossfade: float = option(
        "Crossfade between one input and the next, in seconds.",
        "S",
        default=1.0,
        panel=FILM,
        api=["crossfade_in_s"],
        min=0,
    )
    walk: float = option(
        "Period of a walk through the initial noise, in seconds; 0 keeps the noise.",
        "S",
        default=0.0,
        panel=FILM,
        api=["walk_in_s"],
        min=0,
    )
    paint_on: int = option(
        "Optimize each frame from the last in N iterations, as clip2clap paint does, instead of "
        "decoding it.",
        "N",
        default=0,
        panel=FILM,
        min=0,
    )
    title: str | None = option("Text of an opening title card.", "TEXT", panel=FILM)


@dataclass(frozen=True, kw_only=True)
class AudioFiles(Output, Overwrite):
    """Audio files to write."""

    audio_format: AudioFormat | None = option(
        "Audio file format; by default that of the file name, else wav.",
        panel=FILES,
        was=["--format"],
    )
    spectrogram: bool = option(
        "Also write NAME-spectrogram.png for each audio file.", default=False, panel=FILES
    )


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Output, Overwrite):
    """Image files to write."""

    image_format: ImageFormat | None = option(
        "Image file format; by default that of the file name, else png.",
        panel=FILES,
        was=["--format"],
    )
    grid: bool = option(
        "Also write NAME-grid, the images of one input side by side.", default=False, panel=FILES
    )


@dataclass(frozen=True, kw_only=True)
class Running(BatchSize, Device, Dtype, Json):
    """Batches, device, number format and JSON output."""


@dataclass(frozen=True, kw_only=True)
class PaintingOptions:
    """Targets and optimization of `paint`."""

    target_text: list[str] | None = option(
        "Further target in words, with a weight; below 0 the image moves away from it.",
        "TEXT:WEIGHT",
        panel=PAINTING,
        was=["--text"],
    )
    target_audio: list[str] | None = option(
        "Further audio target, with a weight.", "FILE:WEIGHT", panel=PAINTING, was=["--sound"]
    )
    target_image: list[str] | None = option(
        "Further image target, with a weight.", "FILE:WEIGHT", panel=PAINTING, was=["--image"]
    )
    break_audio: int = option(
        "Split each audio input into N parts, targets of weight 0.3 each beside the whole; 1 "
        "leaves it whole.",
        "N",
        default=2,
        panel=PAINTING,
        min=1,
    )
    num_iterations: int = option(
        "Optimization steps.",
        "N",
        default=150,
        panel=PAINTING,
        was=["--iterations"],
        api=["iterations"],
        min=1,
    )
    step_size: float = option("Adam's learning rate.", "X", default=0.1, panel=PAINTING, min=0)
    cutouts: int = option("Random cutouts per step.", "N", default=8, panel=PAINTING, min=1)
    cut_size: int | None = option(
        "Side of a cutout in pixels, for a CLIP that accepts any size; smaller is faster.",
        "N",
        panel=PAINTING,
        min=1,
    )
    augment: bool = option(
        "Flip, rotate, shear and tint the cutouts.", default=True, panel=PAINTING
    )
    total_variation: float = option(
        "Weight of the total variation loss; more is smoother.",
        "W",
        default=1.0,
        panel=PAINTING,
        min=0,
    )
    codebook: float = option(
        "Weight of the distance between the latent and the autoencoder's codebook.",
        "W",
        default=0.0,
        panel=PAINTING,
        min=0,
    )
    size: str | None = option("Old spelling of --width and --height.", "WxH", hidden=True)
    save_every: int = option(
        "Write the image every N steps; 0 only at the end.", "N", default=25, panel=FILES, min=0
    )


@dataclass(frozen=True, kw_only=True)
class PainterOptions(Decoder, Clip, Clap, Translator):
    """Models of `paint`."""

    autoencoder: str | None = option(
        "Autoencoder whose latent is optimized: a pipeline with a VQModel, an AutoencoderKL or a "
        "PatchAutoencoder, or a folder of one. By default the decoder's.",
        "NAME",
        panel=MODELS,
    )
