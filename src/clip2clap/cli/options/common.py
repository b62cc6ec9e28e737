"""Options that several verbs have, each declared once."""

from pathlib import Path
from typing import Literal

from clip2clap.cli.command import Options, argument, option

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]


class Table(Options):
    """Embedding table to read."""

    table: Path = argument(
        "Folder of an embedding table, as extract writes it.", "TABLE", required=True
    )


class Json(Options):
    """Machine-readable output."""

    as_json: bool = option("Print one JSON document on stdout.", flags="--json", default=False)


class Output(Json, panel="Files"):
    """Output file or folder."""

    output: Path | None = option(
        "Output folder, or for a single image, audio file or film also a file name. By default it "
        "is named after the table or data set, else clip2clap-VERB. classify: file of JSON lines, "
        "to which a run adds the inputs that it lacks.",
        "PATH",
        flags="--output -o",
        was="--out",
    )


class Overwrite(Output, panel="Files"):
    """Replacement of existing files."""

    overwrite: bool = option("Replace earlier output.", default=False)


class AllowPrivate(Options):
    """Addresses that images are downloaded from."""

    allow_private: bool = option("Also download from this machine and its network.", default=False)


class Recursive(Options):
    """Folders among the inputs."""

    recursive: bool = option("Also search the subfolders of folders.", default=False)


class Seed(Options):
    """Random seed."""

    seed: int = option("The same seed gives the same result.", default=0, min=0)


class Device(Options, panel="Running"):
    """Device to compute on."""

    device: str = option("auto, cpu, cuda, cuda:1 or mps.", "NAME", default="auto")


class Resamples(Options, panel="Running"):
    """Bootstrap draws."""

    resamples: int = option("Bootstrap resamples.", default=1000, min=100)


class BatchSize(Options, panel="Running"):
    """Items per batch."""

    batch_size: int | None = option(
        "Items per batch. By default what fits free memory, up to 8 or on a GPU 32, for "
        "image-to-audio, 4 for audio-to-image, 8 for evaluate, 64 texts or images or 16 audio "
        "clips for extract, 32 for train-captioner, and for train it depends on the number of "
        "pairs.",
        min=1,
    )


class Running(Device, BatchSize, panel="Running"):
    """Number format, device and batches."""

    dtype: DtypeName | None = option(
        "Number format of the models; auto is the fastest that is safe. By default auto, for "
        "extract and fit fp32.",
        api="torch_dtype",
    )


class Engine(Options, panel="Running"):
    """Machines that a run uses."""

    engine: Literal["local", "ray"] = option("local, or ray for a cluster.", default="local")
    ray_address: str | None = option(
        "ray: address of the cluster; by default one is started here.", "ADDRESS", api="address"
    )
    actors: int | None = option(
        "ray: number of actors that hold the models; by default one per GPU, or 2.",
        api="ray_actors",
    )


class Rows(Options, panel="Data"):
    """Rows to read."""

    split: str | None = option(
        "Split: train (the default), val or test. evaluate: auto (the default, rows that were held "
        "out), test, validation, train, held-out or all.",
        "NAME",
    )
    limit: int | None = option("Maximum number of rows; evaluate: by default 50000.", min=1)


class Clip(Options, panel="Models"):
    """CLIP encoder."""

    clip: str | None = option(
        "CLIP: preset, hub id or folder. By default the one that the translator or pipeline was "
        "made for; for extract and fit clip-vit-base-patch32, for classify and index demo. "
        "evaluate, of generated images: the CLIP to measure with, preferably another than the "
        "decoder's.",
        "NAME",
    )


class Encoders(Clip, panel="Models"):
    """CLIP and CLAP encoders."""

    clap: str | None = option(
        "CLAP: preset, hub id or folder. By default the one that the translator or pipeline was "
        "made for; for extract the CLAP in audioldm-s-full-v2, for classify and index demo. "
        "evaluate, of generated audio: the CLAP to measure with, preferably another than the "
        "generator's.",
        "NAME",
    )


class SpeechEncoderName(Options, panel="Speech"):
    """Speech encoder."""

    speech_encoder: str | None = option(
        "Speech encoder into the space of the CLIP: demo (the default), a hub id or a folder.",
        "NAME",
    )


class Speech(SpeechEncoderName, panel="Speech"):
    """Speech, and the encoder that reads it."""

    speech: list[str] | None = option(
        "Speech, which stands for what it says: which image is meant (classify), a condition, a "
        "target, or a term of the query; may be given several times. A weight counts where several "
        "things are mixed.",
        "FILE:WEIGHT",
    )


class WindowLength(Options, panel="Audio"):
    """Length of windows of audio."""

    window_s: float | None = option(
        "Length of a window of audio, in seconds: classify and keywords then name audio over time; "
        "train-speech: of the encoder's input, by default 10.",
        "S",
        min=0.05,
    )


class ImageDir(Options, panel="Data"):
    """Folder of images."""

    image_dir: Path | None = option(
        "Folder of images: to generate audio from, or real ones to compare with, whose subfolders "
        "name the classes; train-speech and benchmark: those that are described in speech.",
        "FOLDER",
        was="--images",
        api="images",
    )


class Partial(Options, panel="Data"):
    """Incomplete folders."""

    partial: bool = option("Use what is there, if the folder is not complete.", default=False)


class EncoderName(Options, panel="Models"):
    """Encoder that a verb is about."""

    encoder: str | None = option(
        "benchmark: CLAP to measure, demo (the default), a preset, a hub id or a folder. finetune: "
        "clap or clip; by default clap if there is audio in DATA.",
        "NAME",
    )


class Translator(Options, panel="Models"):
    """Translator between the models."""

    translator: str | None = option(
        "Translator between CLIP and CLAP: hub id or folder. By default the pipeline's own.", "NAME"
    )


class Back(Options, panel="Models"):
    """Translator of the opposite direction."""

    back: str | None = option(
        "Translator from the CLAP into the CLIP. evaluate: from the measuring CLAP, for the "
        "CLIP-score of audio; search: for audio that finds images.",
        "TRANSLATOR",
    )


class Generator(Clip, panel="Models"):
    """Text-to-audio generator."""

    generator: str | None = option(
        "Audio generator: demo, a preset (audioldm-s-full-v2 ...), a hub id or a folder. Default "
        "demo, for fit audioldm-s-full-v2.",
        "NAME",
        was="--model",
        api="pretrained_model_name_or_path",
    )


class Decoder(Translator, Encoders, panel="Models"):
    """Image decoder, with its encoders and translator."""

    decoder: str = option(
        "Image decoder: demo, a preset (kandinsky-2-2 ...), a hub id or a folder.",
        "NAME",
        default="demo",
        was="--model",
        api="pretrained_model_name_or_path",
    )


class InferenceSteps(Options, panel="Sampling"):
    """Denoising steps."""

    num_inference_steps: int | None = option(
        "Denoising steps; default is the model's own.", was="--steps", min=1
    )


class GuidedSteps(Options, panel="Sampling"):
    """Steps with classifier-free guidance."""

    guidance_end: float | None = option(
        "Share of the steps, from the first, that are guided; default is the generator's, 0.5.",
        api="guidance_interval",
        min=0,
        max=1,
    )


class StepsAndDuration(InferenceSteps, panel="Sampling"):
    """Denoising steps, and duration of audio."""

    duration_s: float | None = option(
        "Duration in seconds: of generated audio, by default what the model was trained on; of "
        "audio inputs, by default all.",
        "S",
        was="--seconds",
        api="audio_length_in_s",
        above=0,
    )
