"""`clip2clap image-to-audio`."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from clip2clap.commands.options import (
    Device,
    Dtype,
    Json,
    OptionError,
    Seed,
    check_seed,
    choose_device,
    choose_dtype,
    require,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from clip2clap.inference import ImageToAudioPipeline

Item = TypeVar("Item")

SchedulerName = Literal["default", "ddim", "unipc", "euler", "pndm"]
_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}
_FORMATS = ("wav", "flac", "ogg")
_OTHER_SOUND_SUFFIXES = (".mp3", ".m4a", ".aac", ".aif", ".aiff", ".opus", ".wma")
_LONGEST_URL_STEM = 80


@dataclass(frozen=True)
class Photograph:
    """A picture that was asked for: read, or with the reason why it cannot be."""

    index: int
    """Its place among the inputs, from 0; with the seed it decides its noise."""

    source: str
    """The file or URL it comes from."""

    image: "Image | None" = None
    """The picture, or None if it cannot be read."""

    reason: str | None = None
    """Why it cannot be read."""


@dataclass
class Destination:
    """Where sounds are written, and under which names."""

    folder: Path
    """The folder they lie in."""

    format: Literal["wav", "flac", "ogg"]
    """What they are written as."""

    stem: str | None
    """The one file's name without its suffix, if the user gave it."""

    overwrite: bool
    """Whether files that exist are replaced; otherwise the new ones get another name."""

    spectrogram: bool
    """Whether a spectrogram is drawn beside each sound."""

    taken: set[str] = field(default_factory=set)
    """The names given away in this run, which are not given twice even with `overwrite`."""

    def write(
        self, photograph: Photograph, waveform: "np.ndarray", sampling_rate: int
    ) -> dict[str, str]:
        """Write a photograph's sound, and its spectrogram if wanted; give what was written."""
        from clip2clap.inference.audio_files import write_audio
        from clip2clap.inference.files import free_stem

        suffixes = {"output": f".{self.format}"}
        if self.spectrogram:
            suffixes["spectrogram"] = "-spectrogram.png"
        stem = free_stem(
            self.folder,
            self.stem or stem_of(photograph.source),
            [] if self.overwrite else list(suffixes.values()),
            taken=self.taken,
        )
        self.taken.add(stem.casefold())
        paths = {what: self.folder / f"{stem}{suffix}" for what, suffix in suffixes.items()}
        write_audio(paths["output"], waveform, sampling_rate, format=self.format)
        if self.spectrogram:
            from clip2clap.inference.spectrogram import write_spectrogram

            write_spectrogram(paths["spectrogram"], waveform, sampling_rate, title=stem)
        return {what: str(path) for what, path in paths.items()}


def image_to_audio(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Photographs: files, folders, http(s) URLs. JPEG, PNG, WebP, GIF, TIFF.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A folder; for a single photograph also a file name.",
            rich_help_panel="Files",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The generator: demo, a preset (audioldm-s-full-v2 ...), a hub id or a folder.",
            rich_help_panel="Models",
        ),
    ] = "demo",
    translator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="From CLIP into the generator's CLAP: a folder or a hub id.",
            rich_help_panel="Models",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLIP: a preset, a hub id or a folder; by default the translator's own.",
            rich_help_panel="Models",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Length of a sound; by default what the model learned.",
            rich_help_panel="Sound",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Denoising steps; 10 to 25 are enough.", rich_help_panel="Sound"
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="How closely to follow the photograph; 1 turns guidance off.",
            rich_help_panel="Sound",
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="What the sound shall not be.", rich_help_panel="Sound"),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Sounds to make for a photograph; the one that fits best is kept.",
            rich_help_panel="Choosing among candidates",
        ),
    ] = 1,
    ranker: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A CLAP with an audio tower, to choose among candidates with.",
            rich_help_panel="Choosing among candidates",
        ),
    ] = None,
    ranker_translator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="From CLIP into the ranker's CLAP.",
            rich_help_panel="Choosing among candidates",
        ),
    ] = None,
    scheduler: Annotated[
        SchedulerName,
        typer.Option(
            metavar="NAME",
            help="The solver: default (the model's own, a DPM-Solver++ for few steps), ddim, "
            "unipc, euler or pndm.",
            show_default=False,
            rich_help_panel="Sound",
        ),
    ] = "default",
    seed: Seed = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Sounds made at a time; no sound depends on it.",
            rich_help_panel="Running",
        ),
    ] = 4,
    device: Device = "auto",
    dtype: Dtype = "auto",
    format: Annotated[
        Literal["wav", "flac", "ogg"] | None,
        typer.Option(
            help="What to write; wav unless the file name says otherwise.", rich_help_panel="Files"
        ),
    ] = None,
    spectrogram: Annotated[
        bool,
        typer.Option(
            "--spectrogram",
            help="Draw NAME-spectrogram.png beside each sound.",
            rich_help_panel="Files",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files instead of choosing a free name.",
            rich_help_panel="Files",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the sound of each photograph.

    Each sound bears its photograph's name, and is written as soon as its batch is done.

    The noise of the photograph at place i, from 0, comes from the seed plus i alone.

    A photograph that can't be read is skipped; the exit code is then 1.
    """
    require(
        seconds is None or 0 < seconds < float("inf"),
        "--seconds",
        f"expected a length above 0, got {seconds:g}." if seconds is not None else "",
    )
    require(steps is None or steps >= 1, "--steps", f"expected at least 1, got {steps}.")
    require(
        guidance_scale is None or 0 <= guidance_scale < float("inf"),
        "--guidance-scale",
        f"expected 0 or more, got {guidance_scale}. 1 turns guidance off, 2 to 4 are usual.",
    )
    require(candidates >= 1, "--candidates", f"expected at least 1, got {candidates}.")
    require(batch_size >= 1, "--batch-size", f"expected at least 1, got {batch_size}.")
    require(
        ranker is None or candidates > 1,
        "--ranker",
        "there is nothing to rank with one candidate. Add --candidates 4.",
    )
    require(
        ranker_translator is None or ranker is not None,
        "--ranker-translator",
        "it leads into the space of a ranker. Add --ranker.",
    )
    check_seed(seed)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)

    from clip2clap.embeddings.images import find_images, is_url

    sources = find_images(inputs)
    require(
        any(is_url(source) or Path(source).exists() for source in sources),
        "INPUT",
        f"{sources[0]} does not exist.",
    )
    destination = choose_destination(
        output,
        count=len(sources),
        format=format,
        overwrite=overwrite,
        spectrogram=spectrogram,
    )
    progress_console = Console(stderr=True)
    start = time.perf_counter()
    with progress_console.status("Loading the models"):
        pipeline = load_pipeline(
            model,
            clip=clip,
            translator=translator,
            ranker=ranker,
            ranker_translator=ranker_translator,
            candidates=candidates,
            scheduler=scheduler,
            device=torch_device,
            dtype=torch_dtype,
        )
    loaded = time.perf_counter()

    report: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "device": str(torch_device),
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "steps": steps or pipeline.config["default_num_inference_steps"],
        "sounds": [],
        "skipped": [],
        "interrupted": False,
    }
    calls = {
        "audio_length_in_s": seconds,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "num_candidates": candidates,
        "batch_size": batch_size,
    }
    with _progress_bar(progress_console) as progress:
        task = progress.add_task("", total=len(sources))
        try:
            _make_sounds(
                pipeline,
                read_ahead(read_batches(sources, max(1, batch_size // candidates))),
                destination,
                calls,
                seed=seed,
                report=report,
                show=None if as_json else typer.echo,
                progress=progress,
                task=task,
            )
        except KeyboardInterrupt:
            report["interrupted"] = True
    report["seconds"] = {
        "load": round(loaded - start, 3),
        "make": round(time.perf_counter() - loaded, 3),
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(_summary(report, len(sources), destination.folder), err=True)
    if report["interrupted"]:
        raise typer.Exit(130)
    if report["skipped"]:
        raise typer.Exit(1)


def stem_of(source: str) -> str:
    """Give the name that a photograph's sound bears: its file's name without the suffix."""
    from clip2clap.embeddings.images import is_url

    if not is_url(source):
        return Path(source).stem
    name = Path(unquote(urlsplit(source).path)).stem
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_LONGEST_URL_STEM]
    return safe or "photograph"


def choose_destination(
    output: Path,
    *,
    count: int,
    format: Literal["wav", "flac", "ogg"] | None,
    overwrite: bool,
    spectrogram: bool,
) -> Destination:
    """Tell a folder from a file name, and make the folder.

    Raises:
        OptionError: If the name does not suit the format or the number of photographs, or
            nothing can be written there.
    """
    suffix = output.suffix.lower()
    is_file_name = suffix.lstrip(".") in _FORMATS and not output.is_dir()
    if not is_file_name:
        require(
            suffix not in _OTHER_SOUND_SUFFIXES,
            "--output",
            f"{suffix} cannot be written. Use .wav, .flac or .ogg, or name a folder.",
        )
        require(
            not output.exists() or output.is_dir(), "--output", f"{output} is a file, not a folder."
        )
        folder, stem = output, None
    else:
        require(
            count == 1,
            "--output",
            f"{output.name} is one file, and there are {count} photographs. Name a folder.",
        )
        require(
            format is None or f".{format}" == suffix,
            "--format",
            f"{output.name} does not end in .{format}. Leave --format out, or change the name.",
        )
        folder, stem = output.parent, output.stem
        format = next(known for known in _FORMATS if f".{known}" == suffix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {folder} cannot be made: {error.strerror}.") from error
    return Destination(folder, format or "wav", stem, overwrite, spectrogram)


def load_pipeline(
    model: str,
    *,
    clip: str | None,
    translator: str | None,
    ranker: str | None,
    ranker_translator: str | None,
    candidates: int,
    scheduler: SchedulerName,
    device: Any,
    dtype: Any,
) -> "ImageToAudioPipeline":
    """Load the models that a user named, after checking that they suffice.

    Raises:
        OptionError: If a generator without a translator of its own is named alone, or
            candidates are wanted that nothing can rank.
        UserError: If a model cannot be had, or two were not made for one another.
    """
    import diffusers

    from clip2clap.inference import ImageToAudioPipeline
    from clip2clap.inference.generator_checkpoint import fetch_folder, quietly, read_index
    from clip2clap.presets import resolve
    from clip2clap.translator import read_config

    index = read_index(fetch_folder(resolve(model, "generator"), []))
    own = index.get("_class_name") == ImageToAudioPipeline.__name__
    require(
        own or translator is not None,
        "--translator",
        f"{model} listens to CLAP vectors and brings no translator. Name one that was trained "
        "from a CLIP into its CLAP (clip2clap train makes one).",
    )
    require(
        candidates == 1 or ranker is not None or index.get("_class_name") != "AudioLDMPipeline",
        "--candidates",
        f"choosing among candidates needs a CLAP that hears, and {model} has none: its CLAP is a "
        "text tower alone. Add --ranker laion/clap-htsat-unfused and --ranker-translator, a "
        "translator from the same CLIP into that CLAP.",
    )
    if clip is None and not own and translator is not None:
        space = read_config(translator).get("source_space") or {}
        clip = space.get("model_id")
        require(
            clip is not None,
            "--clip",
            f"the translator {translator} does not say which CLIP it was trained for. Name it.",
        )
    pipeline = ImageToAudioPipeline.from_pretrained(
        model,
        clip=clip,
        translator=translator,
        ranker=ranker,
        ranker_translator=ranker_translator,
        torch_dtype=dtype,
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler != "default":
        solver = getattr(diffusers, _SCHEDULERS[scheduler])
        # DDIM's and PNDM's usual spacing, which AudioLDM was published with; the default solver's
        # own does not suit them.
        spacing = {"timestep_spacing": "leading"} if scheduler in ("ddim", "pndm") else {}
        with quietly():
            pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **spacing)
    return pipeline


def read_batches(sources: Sequence[str], size: int) -> Iterator[list[Photograph]]:
    """Read photographs, `size` at a time; one that cannot be read bears the reason."""
    from clip2clap.embeddings.errors import UserError
    from clip2clap.embeddings.images import load_image

    for start in range(0, len(sources), size):
        batch = []
        for index, source in enumerate(sources[start : start + size], start):
            try:
                batch.append(Photograph(index, source, image=load_image(source)))
            except (UserError, OSError) as error:
                batch.append(Photograph(index, source, reason=" ".join(str(error).split())))
        yield batch


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Make the next item in a thread while the caller works on this one.

    No more than two items wait beside the one given out. The thread dies with the process, so
    that an interrupted run does not wait for a slow server.
    """
    queue: Queue[tuple[str, Any]] = Queue(maxsize=1)

    def fill() -> None:
        try:
            for item in items:
                queue.put(("item", item))
        except BaseException as error:  # handed over to the caller, whatever it is
            queue.put(("error", error))
        else:
            queue.put(("end", None))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        what, value = queue.get()
        if what == "end":
            return
        if what == "error":
            raise value
        yield value


def _make_sounds(
    pipeline: "ImageToAudioPipeline",
    batches: Iterable[list[Photograph]],
    destination: Destination,
    calls: dict[str, Any],
    *,
    seed: int,
    report: dict[str, Any],
    show: Any,
    progress: Progress,
    task: Any,
) -> None:
    """Make and write the sounds batch by batch, and note each in the report."""
    import numpy as np
    import torch

    from clip2clap.inference import ImageToAudioOutput

    done = 0
    for batch in batches:
        readable = []
        for photograph in batch:
            if photograph.image is not None:
                readable.append(photograph)
                continue
            report["skipped"].append({"input": photograph.source, "reason": photograph.reason})
            typer.echo(f"skipped: {photograph.reason}", err=True)
        if readable:
            rounds = -(-len(readable) * calls["num_candidates"] // calls["batch_size"])
            share = len(readable) / (rounds * report["steps"])

            def advance(*_: Any, share: float = share) -> dict[str, Any]:
                progress.advance(task, share)
                return {}

            result = pipeline(
                [photograph.image for photograph in readable],
                generator=[
                    torch.Generator().manual_seed(seed + photograph.index)
                    for photograph in readable
                ],
                callback_on_step_end=advance,
                **calls,
            )
            assert isinstance(result, ImageToAudioOutput)
            for place, photograph in enumerate(readable):
                waveform = np.asarray(result.audios[place])
                written = destination.write(photograph, waveform, result.sampling_rate)
                sound = {
                    "input": photograph.source,
                    **written,
                    "seed": seed + photograph.index,
                    "seconds": len(waveform) / result.sampling_rate,
                    "sampling_rate": result.sampling_rate,
                }
                if result.similarities is not None:
                    sound["similarity"] = round(float(result.similarities[place].max()), 4)
                report["sounds"].append(sound)
                if show is not None:
                    show(written["output"])
        done += len(batch)
        progress.update(task, completed=done)


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("Making sounds"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # What goes to a terminal is shown above the bar, what goes into a file goes there.
        redirect_stdout=sys.stdout.isatty(),
    )


def _summary(report: dict[str, Any], count: int, folder: Path) -> str:
    made, skipped = len(report["sounds"]), len(report["skipped"])
    parts = [f"{made} sound{'' if made == 1 else 's'} in {folder}"]
    if skipped:
        parts.append(f"{skipped} skipped")
    if report["interrupted"]:
        parts.append(f"interrupted after {made + skipped} of {count}")
    return f"{', '.join(parts)} ({report['seconds']['make']:.1f} s)"
