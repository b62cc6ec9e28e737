"""`clip2clap audio-to-image`."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from clip2clap.ahead import read_ahead
from clip2clap.commands.destination import PictureFormatName, choose_picture_destination
from clip2clap.commands.film import (
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
    make_one,
    plan_films,
)
from clip2clap.commands.options import (
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
from clip2clap.commands.recordings import Recording, parse_mix, read_recordings
from clip2clap.commands.running import RunReport, SchedulerName, progress_bar, use_scheduler
from clip2clap.presets import DEMO_FOLDER

if TYPE_CHECKING:
    from PIL.Image import Image

    from clip2clap.inference import AudioToImagePipeline

OffloadName = Literal["none", "model", "sequential"]

_NAMES_SHOWN = 3
_HEARD = "Hearing"
_MODELS = "Models"
_PICTURE = "Picture"
_FILES = "Files"
_RUNNING = "Running"


@dataclass(frozen=True)
class Painting:
    """What was painted of a recording, the best picture first."""

    pictures: "list[Image]"
    """Those that are kept."""

    similarities: list[float] | None
    """Cosine similarity of each to the vector asked for; None without a CLIP."""

    nearest: list[tuple[str, float]]
    """Names nearest to that vector with their cosine similarities; none without a CLIP."""

    seed: int
    """What the noise came from: with it, the pictures can be painted again alone."""


@dataclass
class Report(RunReport):
    """What a run did."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    """For each recording its pictures' files, and what to know about them."""

    films: list[dict[str, Any]] = field(default_factory=list)
    """For each film its file, the recordings in it, its frames and its length."""


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

    from clip2clap.embeddings.sounds import find_sounds

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
    sources = [file for file, _ in ingredients] or find_sounds(inputs or [])
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
        pipeline = load_pipeline(
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
    report = Report(
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
        _make_films(pipeline, planned, request, report, settings, console, as_json=as_json)
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


def _make_films(
    pipeline: "AudioToImagePipeline",
    planned: Sequence[tuple[Path, list[str]]],
    request: FilmRequest,
    report: Report,
    settings: dict[str, Any],
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Make films one by one, and end as the verb does; one that can't be made is skipped."""
    from clip2clap.embeddings.errors import UserError

    began = time.perf_counter()
    calls = {
        name: value
        for name, value in settings.items()
        if name not in ("num_images_per_prompt", "batch_size")
    }
    for index, (path, sources) in enumerate(planned):
        seed = report.settings["seed"] + index
        try:
            film = make_one(
                pipeline, path, sources, request, calls=calls, seed=seed, console=console
            )
        except UserError as error:
            report.skip(sources, error)
            continue
        except KeyboardInterrupt:
            report.interrupted = True
            break
        report.films.append(
            {
                "input": sources,
                "output": str(path),
                "frames": film.frames,
                "seconds": round(film.seconds, 3),
                "seed": seed,
            }
        )
        if not as_json:
            typer.echo(str(path))
    report.seconds = {"make": round(time.perf_counter() - began, 3)}
    report.end(as_json=as_json)


def load_pipeline(
    model: str,
    *,
    clap: str | None,
    translator: str | None,
    clip: str | None,
    ip_adapter: str | None,
    scheduler: SchedulerName,
    device: Any,
    dtype: Any,
    offload: OffloadName,
) -> "AudioToImagePipeline":
    """Load the models that a user named, after checking that they suffice.

    Raises:
        OptionError: If a decoder without a translator of its own is named alone, or nothing says
            which CLAP the translator was trained for.
        UserError: If a model cannot be had, or two were not made for one another.
    """
    from clip2clap.inference import AudioToImagePipeline
    from clip2clap.inference.generator_checkpoint import fetch_folder, read_index
    from clip2clap.presets import resolve
    from clip2clap.translator import read_config

    folder = fetch_folder(resolve(model, "decoder"), [], kind="decoder")
    index = read_index(folder, expected="AudioToImagePipeline.save_pretrained")
    own = index.get("_class_name") == AudioToImagePipeline.__name__
    require(
        own or translator is not None,
        "--translator",
        f"{model} paints CLIP vectors and brings no translator. Name one that was trained from a "
        "CLAP into its CLIP (clip2clap train makes one).",
    )
    if clap is None and not own and translator is not None:
        clap = (read_config(translator).get("source_space") or {}).get("model_id")
        require(
            clap is not None,
            "--clap",
            f"the translator {translator} does not say which CLAP it was trained for. Name it.",
        )
    pipeline = AudioToImagePipeline.from_pretrained(
        model,
        clap=clap,
        translator=translator,
        clip=clip,
        ip_adapter=ip_adapter,
        torch_dtype=dtype,
    )
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    pipeline.set_progress_bar_config(disable=True)
    use_scheduler(pipeline, scheduler)
    return pipeline


def paint(
    pipeline: "AudioToImagePipeline",
    batches: Iterable[list[Recording]],
    calls: dict[str, Any],
    *,
    weights: Sequence[float] | None,
    names: Sequence[str],
    keep: int,
    seed: int,
    advance: Callable[[float], None],
) -> "Iterator[tuple[Recording, Painting | None]]":
    """Paint recordings, batch by batch.

    Args:
        pipeline: What paints them.
        batches: Recordings, those that cannot be read among them.
        calls: What the pipeline is called with beside them.
        weights: Mix each batch into one item by these weights; nothing is painted of it if one of
            its recordings cannot be read.
        names: What to choose the nearest names from.
        keep: How many of an item's pictures are kept.
        seed: The recording at place i gets a generator of its own, seeded with this plus i.
        advance: Called with the share of a recording that is done, as steps go by.

    Yields:
        Each recording in order with its pictures, or None if it cannot be read; of a mix the first.
    """
    import torch

    for batch in batches:
        readable = [recording for recording in batch if recording.audio is not None]
        if weights is not None and len(readable) < len(batch):
            yield from ((recording, None) for recording in batch if recording.audio is None)
            continue
        advance(0 if weights is not None else len(batch) - len(readable))
        items = readable[:1] if weights is not None else readable
        paintings: dict[int, Painting] = {}
        if items:
            rounds = -(-len(items) * calls["num_images_per_prompt"] // calls["batch_size"])
            share = len(items) / rounds

            def count_step(
                running: Any, step: int, *_: Any, share: float = share
            ) -> dict[str, Any]:
                advance(share / running.num_timesteps)
                return {}

            seeds = [seed + recording.index for recording in items]
            result = pipeline(
                [recording.audio for recording in readable if recording.audio is not None],
                weights=weights,
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                callback_on_step_end=count_step,
                **calls,
            )
            nearest = _nearest(pipeline, result.image_embeds, names)
            for place, recording in enumerate(items):
                each = calls["num_images_per_prompt"]
                pictures: list[Any] = list(result.images[place * each : (place + 1) * each])
                values = None
                if result.similarities is not None:
                    values = result.similarities[place].tolist()
                    order = sorted(range(each), key=lambda at, v=values: -v[at])
                    pictures = [pictures[at] for at in order]
                    values = [values[at] for at in order][:keep]
                paintings[recording.index] = Painting(
                    pictures[:keep], values, nearest[place], seeds[place]
                )
        for recording in batch if weights is None else items:
            yield recording, paintings.get(recording.index)


def _nearest(
    pipeline: "AudioToImagePipeline", image_embeds: Any, names: Sequence[str]
) -> list[list[tuple[str, float]]]:
    if not names or pipeline.clip is None or "text" not in pipeline.clip.modalities:
        return [[] for _ in image_embeds]
    return [row[:_NAMES_SHOWN] for row in pipeline.nearest_names(image_embeds, names)]


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
