"""Options of the verbs that generate: demo, image-to-audio, audio-to-image and paint."""

from pathlib import Path
from typing import Literal

from clip2clap.cli.command import Options, argument, option
from clip2clap.cli.options.audio_files import AudioFiles
from clip2clap.cli.options.common import (
    AllowPrivate,
    Decoder,
    Device,
    Engine,
    Generator,
    GuidedSteps,
    Output,
    Overwrite,
    Recursive,
    Running,
    Seed,
    Speech,
    StepsAndDuration,
    Translator,
)
from clip2clap.cli.options.words import Captioners, Describe, Route

OffloadName = Literal["none", "model", "sequential"]
SchedulerName = Literal["default", "ddim", "unipc", "euler", "pndm", "deis", "sa-solver"]
ImageFormat = Literal["png", "jpg", "webp"]


class Demo(AllowPrivate, Seed, Output):
    """Options of `demo`."""

    image: str | None = argument("Image file or URL; by default a cat named Chelsea.", "IMAGE")


class Prompts(Options, panel="Condition"):
    """Texts that a pipeline is conditioned on."""

    prompt: list[str] | None = option(
        "Text prompt. image-to-audio: instead of images, may be given several times; "
        "audio-to-image: beside the audio.",
        "TEXT",
    )
    negative_prompt: str | None = option("Text to guide away from.", "TEXT")


class Sampling(StepsAndDuration, Prompts, Seed, panel="Sampling"):
    """Sampling of either pipeline."""

    guidance_scale: float | None = option(
        "Classifier-free guidance scale; 1 turns guidance off.", min=0
    )
    scheduler: SchedulerName = option(
        "Solver; default is the model's own, a DPM-Solver++ for few steps.", default="default"
    )
    num_candidates: int | None = option(
        "Candidates per input; those closest to the condition, or for caption to the file, are "
        "kept. By default the pipeline's own number, for images --num-images, for caption none.",
        was="--candidates",
        min=1,
    )
    low_memory: bool = option(
        "Leave the weights on disk and map each layer's while it runs, on the CPU; one output at a "
        "time. The output is the same.",
        default=False,
        panel="Running",
    )


class Labels(Options, panel="Condition"):
    """Labels to compare with."""

    label_file: Path | None = option(
        "Labels, one a line, of which the nearest are printed; by default the demo's classes.",
        "FILE",
        was="--names",
        api="names labels",
    )


class ImageToAudio(
    Recursive,
    AllowPrivate,
    Engine,
    Running,
    Labels,
    Describe,
    AudioFiles,
    Overwrite,
    Sampling,
    GuidedSteps,
    Translator,
    Generator,
):
    """Options of `image-to-audio`."""

    inputs: list[str] | None = argument(
        "Images: files, folders, quoted patterns ('photos/**/*.jpg'), http(s) URLs; JPEG, PNG, "
        "WebP, GIF, TIFF, BMP, AVIF. Tables: CSV, TSV or JSON lines with columns image, prompt, "
        "negative_prompt, seed, seconds.",
        "INPUT",
        api="images",
    )
    num_variations: int = option(
        "Audio files per input, the most similar first: NAME-1, NAME-2 ...",
        flags="--variations",
        default=1,
        panel="Sampling",
        min=1,
    )
    keep_candidates: bool = option(
        "Also write the candidates that were dropped, into the subfolder candidates.",
        default=False,
        panel="Files",
    )
    min_similarity: float | None = option(
        "Skip inputs that are less similar to every label.", panel="Condition", min=-1, max=1
    )
    ranker: str | None = option(
        "CLAP with an audio encoder to rank candidates with.", "NAME", panel="Models"
    )
    ranker_translator: str | None = option(
        "Translator from the CLIP into the ranker's CLAP.", "NAME", panel="Models"
    )
    spectrogram: bool = option(
        "Also write NAME-spectrogram.png for each audio file.", default=False, panel="Files"
    )


class Repeat(AllowPrivate, Device, Overwrite):
    """Options of `repeat`."""

    sound: Path = argument(
        "Audio file that image-to-audio or demo wrote: WAV, FLAC, OGG, MP3, Opus.",
        "SOUND",
        required=True,
    )
    image: str | None = option(
        "Image that the audio was made from, if it is not where it was: file or URL.",
        "FILE",
        panel="Condition",
    )


class Audio(Recursive):
    """Audio to generate from."""

    inputs: list[str] | None = argument(
        "Audio: files and folders. WAV, FLAC, OGG, MP3, M4A; MP4, MKV, WebM.", "INPUT", api="audios"
    )


class Size(Options, panel="Sampling"):
    """Size of images."""

    height: int | None = option(
        "Height in pixels; by default what the model was trained on.", min=1
    )
    width: int | None = option("Width in pixels; by default what the model was trained on.", min=1)


class InitImage(AllowPrivate, panel="Condition"):
    """Initial image; after the targets of paint, one of which was `--image` too."""

    init_image: str | None = option(
        "Image to start from: file or URL.", "FILE", was="--image --init", api="image"
    )


class Film(Options, panel="Film"):
    """Films of `audio-to-image --film`."""

    film: bool = option(
        "Make films that follow the audio: one per input into a folder, or one of all inputs, one "
        "after another, into an .mp4 file.",
        default=False,
    )
    fps: float = option("Frames per second.", "N", default=8.0, min=0, max=120)
    film_size: str | None = option(
        "Film size in pixels, to which frames are scaled; even numbers.", "WxH", was="--size"
    )
    window: float = option(
        "Audio window per frame, in seconds.", "S", default=2.0, api="window_in_s", above=0
    )
    smoothing: float = option(
        "Standard deviation of the smoothing over time, in seconds.",
        "S",
        default=0.5,
        api="smoothing_in_s",
        min=0,
    )
    crossfade: float = option(
        "Crossfade between one input and the next, in seconds.",
        "S",
        default=1.0,
        api="crossfade_in_s",
        min=0,
    )
    walk: float = option(
        "Period of a walk through the initial noise, in seconds; 0 keeps the noise.",
        "S",
        default=0.0,
        api="walk_in_s",
        min=0,
    )
    paint_on: int = option(
        "Optimize each frame from the last in N iterations, as clip2clap paint does, instead of "
        "decoding it.",
        default=0,
        min=0,
    )
    title: str | None = option("Text of an opening title card.", "TEXT")


class AudioToImage(
    Running,
    Labels,
    Overwrite,
    Film,
    InitImage,
    Size,
    Sampling,
    Describe,
    Route,
    Decoder,
    Speech,
    Audio,
    panel="Condition",
):
    """Options of `audio-to-image`."""

    ip_adapter: str | None = option(
        "IP-Adapter for Stable Diffusion: .safetensors file, or OWNER/REPOSITORY/PATH on the hub.",
        "NAME",
        panel="Models",
    )
    offload: OffloadName = option(
        "Keep on the GPU only the model that is running, or only its layer.",
        default="none",
        panel="Running",
    )
    mix: list[str] | None = option(
        "Mix this audio in, instead of INPUT; give it several times.", "FILE:WEIGHT"
    )
    start_s: float = option(
        "Start in the audio, in seconds.",
        "S",
        default=0.0,
        was="--start",
        api="audio_start_in_s",
        min=0,
    )
    prompt_weight: float | None = option(
        "Weight of the prompt in the embedding; by default 0.3, or 0 for a decoder with a text "
        "encoder.",
        min=0,
        max=1,
    )
    strength: float = option(
        "Share of the denoising that is applied to --init-image, or with --route mixed to the "
        "decoder's image; at 1 nothing of it is left.",
        default=0.8,
        min=0,
        max=1,
    )
    clip_guidance_scale: float | None = option(
        "Strength of guidance of each image to its own embedding by CLIP; 0, as for films, is off.",
        panel="Sampling",
        min=0,
        max=100,
    )
    refine_strength: float | None = option(
        "Share of denoising to repeat on images generated at the decoder's training size and "
        "enlarged; 0 generates larger ones at once.",
        panel="Sampling",
        min=0,
        max=1,
    )
    num_images: int = option(
        "Images per input, the one closest to the condition first.",
        default=1,
        panel="Sampling",
        was="--images",
        min=1,
    )
    image_format: ImageFormat | None = option(
        "Image file format; by default that of the file name, else png.",
        panel="Files",
        was="--format",
    )
    grid: bool = option(
        "Also write NAME-grid, the images of one input side by side.", default=False, panel="Files"
    )


class Targets(Speech, panel="Targets"):
    """Texts, audio and images to come close to."""

    target_text: list[str] | None = option(
        "Further target in words, with a weight; below 0 the image moves away from it.",
        "TEXT:WEIGHT",
        was="--text",
    )
    target_audio: list[str] | None = option(
        "Further audio target, with a weight.", "FILE:WEIGHT", was="--sound"
    )
    target_image: list[str] | None = option(
        "Further image target, with a weight.", "FILE:WEIGHT", was="--image"
    )
    break_audio: int = option(
        "Split each audio input into N parts, targets of weight 0.3 each beside the whole; 1 "
        "leaves it whole.",
        default=2,
        min=1,
    )


class Cutouts(Options, panel="Painting"):
    """Cutouts of the image, which are compared with the targets."""

    cutouts: int = option("Random cutouts per step.", default=8, min=1)
    cut_size: int | None = option(
        "Side of a cutout in pixels, for a CLIP that accepts any size; smaller is faster.", min=1
    )
    augment: bool = option("Flip, rotate, shear and tint the cutouts.", default=True)


class Development(Options, panel="Files"):
    """Images as they develop, and all files of a run as one."""

    save_every: int = option(
        "Also write the image as it is every N steps, as numbered frames NAME-frames/00001.png "
        "...; 0 writes none.",
        default=0,
        min=0,
    )
    steps_film: bool = option(
        "Also write a film of the images as they develop, one after another, each with its audio: "
        "NAME.mp4, or film.mp4 in a folder.",
        default=False,
    )
    zip: bool = option("Also write all files as one zip, NAME.zip or all.zip.", default=False)


class Painting(Cutouts, Targets, panel="Painting"):
    """Targets and optimization of `paint`."""

    num_iterations: int = option(
        "Optimization steps.", default=150, was="--iterations", api="iterations", min=1
    )
    step_size: float = option("Adam's learning rate.", default=0.1, min=0)
    total_variation: float = option(
        "Weight of the total variation loss; more is smoother.", "W", default=1.0, min=0
    )
    codebook: float = option(
        "Weight of the latent's distance from the autoencoder's codebook.", "W", default=0.0, min=0
    )
    size: str | None = option("Old spelling of --width and --height.", "WxH", hidden=True)


class Paint(Device, Seed, Overwrite, Development, InitImage, Decoder, Size, Painting, Audio):
    """Options of `paint`."""

    autoencoder: str | None = option(
        "Autoencoder whose latent is optimized: a pipeline with a VQModel, an AutoencoderKL or a "
        "PatchAutoencoder, or a folder of one. By default the decoder's.",
        "NAME",
        panel="Models",
    )
    brisque: float = option(
        "Weight of BRISQUE, a measure of distortion, in the loss; needs the extra scores.",
        "W",
        default=0.0,
        min=0,
        panel="Painting",
    )


class Guide(
    Device,
    Seed,
    Overwrite,
    Development,
    Captioners,
    Generator,
    Decoder,
    Size,
    StepsAndDuration,
    Cutouts,
    Targets,
    InitImage,
    panel="Guidance",
):
    """Options of `guide`."""

    guidance_strength: float = option(
        "Length of the gradient steps; 0 is the plain sampler.", "X", default=1.0, min=0, max=100
    )
    gradient_steps: int = option(
        "Gradient steps per denoising step.", default=3, min=1, api="iterations"
    )
    guide_from: float = option(
        "Share of the denoising steps from which it is guided.",
        "SHARE",
        default=0.0,
        min=0,
        max=1,
        api="start",
    )
    guide_until: float = option(
        "Share of the denoising steps up to which it is guided.",
        "SHARE",
        default=1.0,
        min=0,
        max=1,
        api="end",
    )
    tv_scale: float = option(
        "Weight of the total variation of the guided image.", "W", default=0.0, min=0
    )
    range_scale: float = option(
        "Weight of latents beyond three standard deviations.", "W", default=0.0, min=0
    )
    skip_timesteps: int = option(
        "Denoising steps to skip, of --num-inference-steps: with more of them more of --init-image "
        "is left.",
        default=0,
        min=0,
    )
    init_scale: float = option(
        "Weight of the perceptual distance (LPIPS) from --init-image; needs the extra perceptual.",
        "W",
        default=0.0,
        min=0,
    )
    unconditional: Path | None = option(
        "Checkpoint of an unconditional diffusion model of pixels in the layout of OpenAI's "
        "256x256_diffusion_uncond.pt, in place of the decoder; needs --clip.",
        "FILE",
        panel="Models",
    )
    condition: Literal["targets", "none"] = option(
        "What the decoder or generator is conditioned on beside: the mean of the targets, or "
        "nothing.",
        default="targets",
    )
    batches: int = option(
        "Images or audio files to generate, with seeds from --seed on.", default=1, min=1
    )
