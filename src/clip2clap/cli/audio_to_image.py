"""`clip2clap audio-to-image`."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clip2clap.cli.audio_inputs import Recording, parse_mix, read_recordings
from clip2clap.cli.destination import PictureFormatName, choose_picture_destination
from clip2clap.cli.film import (
    Crossfade,
    FilmFlag,
    FilmRequest,
    Fps,
    PaintOn,
    Size,
    Smoothing,
    Title,
    Walk,
    Window,
    make_films,
    plan_films,
)
from clip2clap.cli.image_batches import Painting, PictureReport, paint
from clip2clap.cli.loading import OffloadName, SchedulerName, load_decoder
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
from clip2clap.cli.progress import progress_bar
from clip2clap.core.concurrency import read_ahead
from clip2clap.core.presets import DEMO_FOLDER

if TYPE_CHECKING:
    pass

_HEARD = "Hearing"
_MODELS = "Models"
_PICTURE = "Picture"
_FILES = "Files"
_RUNNING = "Running"


def audio_to_image(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Recordings: files, folders. WAV, FLAC, OGG, MP3, M4A; MP4, MKV, WebM.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A folder; for a single recording also a file name.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:WEIGHT",
            help="Mix this recording in, instead of INPUT; give it several times.",
            rich_help_panel=_HEARD,
        ),
    ] = None,
    start: Annotated[
        float,
        typer.Option(metavar="S", help="Where to begin in a recording.", rich_help_panel=_HEARD),
    ] = 0.0,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="How much of a recording to hear; by default all.",
            rich_help_panel=_HEARD,
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names, one a line, of which to say the nearest; by default the demo's 23 kinds.",
            rich_help_panel=_HEARD,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The decoder: demo, a preset (kandinsky-2-2 ...), a hub id or a folder.",
            rich_help_panel=_MODELS,
        ),
    ] = "demo",
    translator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="From the CLAP into the decoder's CLIP: a folder or a hub id.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    clap: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLAP that hears; by default the translator's own.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The decoder's own CLIP, for words and ranking.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    ip_adapter: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For Stable Diffusion: a .safetensors file, or OWNER/REPOSITORY/PATH on the hub.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Words beside the sound.", rich_help_panel=_PICTURE),
    ] = None,
    prompt_weight: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of the words in the vector, 0 to 1; by default 0.3, or 0 for a decoder "
            "that reads by itself.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="What the picture shall not be, for a decoder that reads.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A picture to start from, or its URL.", rich_help_panel=_PICTURE
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="How much of that picture is given up, 0 to 1.",
            rich_help_panel=_PICTURE,
        ),
    ] = 0.8,
    height: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="In pixels; by default what the decoder learned.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(metavar="N", help="In pixels, likewise.", rich_help_panel=_PICTURE),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Denoising steps.", rich_help_panel=_PICTURE),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="How closely to follow the sound; 1 turns guidance off.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    scheduler: Annotated[
        SchedulerName,
        typer.Option(
            metavar="NAME",
            help="The solver: default (a DPM-Solver++ for few steps), ddim, unipc, euler or pndm.",
            show_default=False,
            rich_help_panel=_PICTURE,
        ),
    ] = "default",
    images: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Pictures of each recording, the one that fits best first.",
            rich_help_panel=_PICTURE,
        ),
    ] = 1,
    candidates: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Pictures to paint, of which --images are kept; by default as many.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid",
            help="Also write NAME-grid, a recording's pictures side by side.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    film: FilmFlag = False,
    fps: Fps = 8.0,
    size: Size = None,
    window: Window = 2.0,
    smoothing: Smoothing = 0.5,
    crossfade: Crossfade = 1.0,
    walk: Walk = 0.0,
    paint_on: PaintOn = 0,
    title: Title = None,
    format: Annotated[
        PictureFormatName | None,
        typer.Option(
            help="What to write; png unless the file name says otherwise.", rich_help_panel=_FILES
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Pictures painted at a time; no picture depends on it.",
            rich_help_panel=_RUNNING,
        ),
    ] = 4,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offload: Annotated[
        OffloadName,
        typer.Option(
            help="Keep on the GPU only the part at work, or only its layer.",
            rich_help_panel=_RUNNING,
        ),
    ] = "none",
    as_json: Json = False,
) -> None:
    """Paint what each recording sounds like.

    Each picture bears its recording's name, and is written as soon as its batch is done.

    What a sound was taken for is said on stderr.

    The noise of the recording at place i, from 0, comes from the seed plus i alone.

    A recording that can't be read, or is silent, is skipped; the exit code is then 1.
    """
    candidates = images if candidates is None else candidates
    _check_options(
        inputs=inputs,
        output=output,
        mix=mix,
        start=start,
        seconds=seconds,
        prompt=prompt,
        prompt_weight=prompt_weight,
        image=image,
        strength=strength,
        height=height,
        width=width,
        steps=steps,
        guidance_scale=guidance_scale,
        images=images,
        candidates=candidates,
        batch_size=batch_size,
    )
    assert output is not None
    check_seed(seed)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)
    require(
        offload == "none" or torch_device.type != "cpu",
        "--offload",
        "there is nothing to offload from: the models run on the processor.",
    )
    listed = _read_names(names)
    ingredients = parse_mix(mix or [])

    from clip2clap.media.audio import find_audio

    request = FilmRequest(
        fps=fps,
        size=size,
        window=window,
        smoothing=smoothing,
        crossfade=crossfade,
        walk=walk,
        paint_on=paint_on,
        title=title,
        start=start,
        seconds=seconds,
    )
    if film:
        request.check()
        require(not mix, "--mix", "a film plays recordings one after another. Give them as INPUT.")
        require(images == candidates == 1, "--images", "a film has one picture at a time.")
    sources = [file for file, _ in ingredients] or find_audio(inputs or [])
    require(
        any(Path(source).expanduser().exists() for source in sources),
        "INPUT",
        f"{sources[0]} does not exist.",
    )
    count = 1 if ingredients else len(sources)
    planned = plan_films(output, sources, overwrite=overwrite) if film else []
    destination = (
        None
        if film
        else choose_picture_destination(
            output, count=count, format=format, overwrite=overwrite, grid=grid
        )
    )
    console = Console(stderr=True)
    began = time.perf_counter()
    with console.status("Loading the models"):
        pipeline = load_decoder(
            model,
            clap=clap,
            translator=translator,
            clip=clip,
            ip_adapter=ip_adapter,
            scheduler=scheduler,
            device=torch_device,
            dtype=torch_dtype,
            offload=offload,
        )
    loaded = time.perf_counter()
    settings: dict[str, Any] = {
        "prompt": prompt,
        "prompt_weight": prompt_weight,
        "negative_prompt": negative_prompt,
        "image": image,
        "strength": strength,
        "height": height or pipeline.decoder.size,
        "width": width or pipeline.decoder.size,
        "num_inference_steps": steps or pipeline.config["default_num_inference_steps"],
        "guidance_scale": (
            pipeline.config["default_guidance_scale"] if guidance_scale is None else guidance_scale
        ),
        "num_images_per_prompt": candidates,
        "batch_size": batch_size,
    }
    report = PictureReport(
        {
            "model": model,
            "translator": translator,
            "clap": clap,
            "clip": clip,
            "ip_adapter": ip_adapter,
            "scheduler": type(pipeline.scheduler).__name__,
            "mix": [{"input": file, "weight": weight} for file, weight in ingredients] or None,
            "start": start,
            "seconds": seconds,
            "seed": seed,
            "device": str(torch_device),
            "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
            **settings,
        },
    )
    if destination is None:
        report.settings |= asdict(request)
        make_films(pipeline, planned, request, report, settings, console, as_json=as_json)
        return
    at_once = len(sources) if ingredients else max(1, batch_size // candidates)
    batches = read_ahead(read_recordings(sources, at_once, start=start, seconds=seconds))
    with progress_bar(console, "Painting") as progress:
        task = progress.add_task("", total=count)
        try:
            for recording, painting in paint(
                pipeline,
                batches,
                {**settings, "prompt_weight": prompt_weight},
                weights=[weight for _, weight in ingredients] or None,
                names=listed,
                keep=images,
                seed=seed,
                advance=lambda share: progress.advance(task, share),
            ):
                if painting is None:
                    report.skip(recording.source, recording.reason)
                    continue
                stem = "-".join(Path(file).stem for file, _ in ingredients) or recording.stem
                paths, sheet = destination.write(stem, painting.pictures)
                report.pictures.append(_entry(recording, painting, paths, sheet))
                if painting.nearest:
                    said = ", ".join(f"{name} {value:.2f}" for name, value in painting.nearest)
                    typer.echo(f"{stem}: {said}", err=True)
                if not as_json:
                    for path in [*paths, *([sheet] if sheet else [])]:
                        typer.echo(str(path))
        except KeyboardInterrupt:
            report.interrupted = True
    report.seconds = {
        "load": round(loaded - began, 3),
        "make": round(time.perf_counter() - loaded, 3),
    }
    made = sum(len(entry["pictures"]) for entry in report.pictures)
    what = f"{made} picture{'' if made == 1 else 's'} in {destination.folder}"
    report.end(as_json=as_json, summary=report.summary(what, len(report.pictures), count))


def _check_options(**given: Any) -> None:
    require(given["output"] is not None, "--output", "say where the pictures go: -o bark.png.")
    require(
        bool(given["inputs"]) != bool(given["mix"]),
        "INPUT",
        "give recordings, or --mix FILE:WEIGHT several times, and not both.",
    )
    require(
        0 <= given["start"] < float("inf"),
        "--start",
        f"expected 0 s or later, got {given['start']:g}.",
    )
    check_seconds(given["seconds"])
    scale = given["guidance_scale"]
    if scale is not None:
        require(
            0 <= scale < float("inf"),
            "--guidance-scale",
            f"expected 0 or more, got {scale:g}. 1 turns guidance off, 3 to 10 are usual.",
        )
    counts = ("height", "width", "steps", "images", "batch_size")
    check_counts(**{name: given[name] for name in counts})
    require(
        given["candidates"] >= given["images"],
        "--candidates",
        f"expected at least as many as --images, {given['images']}, got {given['candidates']}.",
    )
    for name in ("strength", "prompt_weight"):
        value = given[name]
        option = f"--{name.replace('_', '-')}"
        require(value is None or 0 <= value <= 1, option, f"expected 0 to 1, got {value}.")
    require(
        given["prompt_weight"] is None or given["prompt"] is not None,
        "--prompt-weight",
        "it is the share of a prompt. Add --prompt.",
    )


def _read_names(file: Path | None) -> list[str]:
    """Read the names to choose from, by default the kinds that the demo models know."""
    if file is None:
        return json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))["kinds"]
    lines = file.expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    require(bool(names), "--names", f"{file} holds no names. Write one a line.")
    return names


def _entry(
    recording: Recording, painting: Painting, paths: list[Path], sheet: Path | None
) -> dict[str, Any]:
    assert recording.audio is not None
    waveform, rate = recording.audio
    outputs = [{"output": str(path)} for path in paths]
    if painting.similarities is not None:
        for output, value in zip(outputs, painting.similarities, strict=True):
            output["similarity"] = round(value, 4)  # pyright: ignore[reportArgumentType]
    return {
        "input": recording.source,
        "pictures": outputs,
        **({"grid": str(sheet)} if sheet else {}),
        "seed": painting.seed,
        "seconds": round(len(waveform) / rate, 3),
        "nearest": [
            {"name": name, "similarity": round(value, 4)} for name, value in painting.nearest
        ],
    }
