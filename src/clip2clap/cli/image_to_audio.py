"""`clip2clap image-to-audio`."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clip2clap.cli.destination import FormatName, choose_destination
from clip2clap.cli.image_inputs import Photograph, read_batches
from clip2clap.cli.loading import SchedulerName, load_generator
from clip2clap.cli.options import (
    Device,
    Dtype,
    Json,
    Overwrite,
    Seed,
    check_counts,
    check_seconds,
    check_seed,
    choose_device,
    choose_dtype,
    require,
)
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.concurrency import read_ahead

if TYPE_CHECKING:
    import numpy as np

    from clip2clap.inference.image_to_audio import ImageToAudioPipeline


@dataclass(frozen=True)
class Sound:
    """What was made of a photograph."""

    waveform: "np.ndarray"
    """Samples, shape (samples,)."""

    sampling_rate: int
    """Samples a second, in Hz."""

    seed: int
    """What its noise came from: with it, the sound can be made again alone."""

    similarity: float | None
    """Cosine similarity to the photograph's vector, if there were candidates to compare."""


@dataclass
class Report(RunReport):
    """What a run did."""

    sounds: list[dict[str, Any]] = field(default_factory=list)
    """For each sound its photograph, its files, and what to know about it."""


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
    ] = Path("."),
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "--generator",
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
        int | None,
        typer.Option(
            metavar="N",
            help="Sounds to make for a photograph; the one that fits best is kept. 4 with the demo "
            "models, else 1.",
            rich_help_panel="Choosing among candidates",
        ),
    ] = None,
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
        FormatName | None,
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
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make the sound of each photograph.

    Each sound bears its photograph's name, and is written as soon as its batch is done.

    The noise of the photograph at place i, from 0, comes from the seed plus i alone.

    A photograph that can't be read is skipped; the exit code is then 1.
    """
    check_seconds(seconds)
    if guidance_scale is not None:
        require(
            0 <= guidance_scale < float("inf"),
            "--guidance-scale",
            f"expected 0 or more, got {guidance_scale:g}. Left out, the model's own holds.",
        )
    check_counts(steps=steps, candidates=candidates, batch_size=batch_size)
    if candidates is not None:
        _require_a_choice(ranker, candidates)
    require(
        ranker_translator is None or ranker is not None,
        "--ranker-translator",
        "it leads into the space of a ranker. Add --ranker.",
    )
    check_seed(seed)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)

    from clip2clap.media.images import find_images, is_url

    sources = find_images(inputs)
    require(
        any(is_url(source) or Path(source).expanduser().exists() for source in sources),
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
    console = Console(stderr=True)
    start = time.perf_counter()
    with console.status("Loading the models"):
        pipeline = load_generator(
            model,
            clip=clip,
            translator=translator,
            ranker=ranker,
            ranker_translator=ranker_translator,
            candidates=candidates or 1,
            scheduler=scheduler,
            device=torch_device,
            dtype=torch_dtype,
        )
    loaded = time.perf_counter()

    candidates = candidates or int(pipeline.config["default_num_candidates"])
    _require_a_choice(ranker, candidates)
    calls = {
        "audio_length_in_s": seconds or pipeline.default_audio_length_in_s,
        "num_inference_steps": steps or pipeline.config["default_num_inference_steps"],
        "guidance_scale": (
            pipeline.config["default_guidance_scale"] if guidance_scale is None else guidance_scale
        ),
        "guidance_end": pipeline.config["default_guidance_end"],
        "negative_prompt": negative_prompt,
        "num_candidates": candidates,
        "batch_size": batch_size,
    }
    report = Report(
        {
            "model": model,
            "translator": translator,
            "clip": clip,
            "ranker": ranker,
            "ranker_translator": ranker_translator,
            "scheduler": type(pipeline.scheduler).__name__,
            "seed": seed,
            "device": str(torch_device),
            "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
            **calls,
        },
    )
    batches = read_ahead(read_batches(sources, max(1, batch_size // candidates)))
    with progress_bar(console, "Making sounds") as progress:
        task = progress.add_task("", total=len(sources))
        try:
            made = make_sounds(
                pipeline,
                batches,
                calls,
                seed=seed,
                advance=lambda share: progress.advance(task, share),
            )
            for photograph, sound in made:
                if sound is None:
                    report.skip(photograph.source, photograph.reason)
                else:
                    written = destination.write(
                        photograph.stem, sound.waveform, sound.sampling_rate
                    )
                    report.sounds.append(_entry(photograph, sound, written))
                    if not as_json:
                        typer.echo(written["output"])
        except KeyboardInterrupt:
            report.interrupted = True
    report.seconds = {
        "load": round(loaded - start, 3),
        "make": round(time.perf_counter() - loaded, 3),
    }
    made = len(report.sounds)
    what = f"{made} sound{'' if made == 1 else 's'} in {destination.folder}"
    report.end(as_json=as_json, summary=report.summary(what, made, len(sources)))


def _require_a_choice(ranker: str | None, candidates: int) -> None:
    require(
        ranker is None or candidates > 1,
        "--ranker",
        "there is nothing to rank with one candidate. Add --candidates 4.",
    )


def make_sounds(
    pipeline: "ImageToAudioPipeline",
    batches: Iterable[list[Photograph]],
    calls: dict[str, Any],
    *,
    seed: int,
    advance: Callable[[float], None],
) -> "Iterator[tuple[Photograph, Sound | None]]":
    """Make the sounds of photographs, batch by batch.

    Args:
        pipeline: What makes them.
        batches: Photographs, those that cannot be read among them.
        calls: What the pipeline is called with beside them.
        seed: The photograph at place i gets a generator of its own, seeded with this plus i.
        advance: Called with the share of a photograph that is done, as steps go by.

    Yields:
        Each photograph in order with its sound, or None if it cannot be read.
    """
    import numpy as np
    import torch

    from clip2clap.inference.image_to_audio import ImageToAudioOutput

    for batch in batches:
        readable = [photograph for photograph in batch if photograph.image is not None]
        advance(len(batch) - len(readable))
        sounds: dict[int, Sound] = {}
        if readable:
            rounds = -(-len(readable) * calls["num_candidates"] // calls["batch_size"])
            share = len(readable) / (rounds * calls["num_inference_steps"])

            def count_step(*_: Any, share: float = share) -> dict[str, Any]:
                advance(share)
                return {}

            seeds = [seed + photograph.index for photograph in readable]
            result = pipeline(
                [photograph.image for photograph in readable if photograph.image is not None],
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                callback_on_step_end=count_step,
                **calls,
            )
            assert isinstance(result, ImageToAudioOutput)
            for place, photograph in enumerate(readable):
                similarity = None
                if result.similarities is not None:
                    similarity = float(result.similarities[place].max())
                sounds[photograph.index] = Sound(
                    np.asarray(result.audios[place]), result.sampling_rate, seeds[place], similarity
                )
        for photograph in batch:
            yield photograph, sounds.get(photograph.index)


def _entry(photograph: Photograph, sound: Sound, written: dict[str, str]) -> dict[str, Any]:
    entry = {
        "input": photograph.source,
        **written,
        "seed": sound.seed,
        "seconds": len(sound.waveform) / sound.sampling_rate,
        "sampling_rate": sound.sampling_rate,
    }
    if sound.similarity is not None:
        entry["similarity"] = round(sound.similarity, 4)
    return entry
