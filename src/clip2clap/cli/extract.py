"""The verb `extract`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import typer
from rich.console import Console

from clip2clap.cli.checks import check_device, check_exists, choose_device, choose_dtype, require
from clip2clap.cli.options.common import Json, Output
from clip2clap.cli.options.data import (
    DataOptions,
    DownloadOptions,
    EncoderOptions,
    EngineOptions,
    PairName,
    PairOptions,
    SourceInput,
    SourceOptions,
)
from clip2clap.cli.progress import plain_console, progress_bar
from clip2clap.core.presets import check_name

if TYPE_CHECKING:
    from clip2clap.embeddings.datasets.base import Source
    from clip2clap.embeddings.datasets.published import Published
    from clip2clap.embeddings.extraction.pipeline import ExtractionReport
    from clip2clap.embeddings.extraction.plan import Column, EncoderPlan

# Pair of each published data set: the modalities that it has.
_PUBLISHED_PAIRS: dict[str, PairName] = {
    "audiocaps": "caption-caption",
    "conceptual-captions": "image-caption",
    "wit": "image-caption",
}
DEFAULT_CLIP = "clip-vit-base-patch32"
DEFAULT_GENERATOR = "audioldm-s-full-v2"


@dataclass(frozen=True, kw_only=True)
class ExtractRun(Output, Json):
    """Output of `extract`."""


def extract(
    read: SourceInput,
    pairs: PairOptions,
    source: SourceOptions,
    encoders: EncoderOptions,
    downloads: DownloadOptions,
    engine: EngineOptions,
    run: ExtractRun,
) -> None:
    """Embed a data set with CLIP and CLAP into a table of pairs.

    A run that was stopped continues where it stopped if it is started again in the same way. Rows
    that cannot be embedded are listed in the table's failures.parquet with the reason.
    """
    clip = "demo" if encoders.demo else encoders.clip or DEFAULT_CLIP
    clap = "demo" if encoders.demo else encoders.clap or DEFAULT_GENERATOR
    check_name(clip, "clip", param="clip")
    check_name(clap, "clap", param="clap")
    check_device(encoders.device, encoders.dtype)
    published = published_name(read.source, source)
    for param in ("ray_address", "actors"):
        given = getattr(engine, param)
        require(engine.engine == "ray" or given is None, param, "goes with --engine ray.")
    pair = pairs.pair or (_PUBLISHED_PAIRS[published] if published else None)
    pair_names = ", ".join(get_args(PairName))
    require(pair is not None, "pair", f"needed for your own data, one of {pair_names}.")
    stem = _default_stem(published, source)
    only = f"-{pairs.only}" if pairs.only and pairs.pair_with is None else ""
    output = run.output or Path(f"{stem}{only}" if stem else "clip2clap-extract")
    partner = _partner(pairs, stem)

    from clip2clap.embeddings.download.config import DownloadConfig
    from clip2clap.embeddings.extraction.plan import RayConfig

    columns = _columns(cast("PairName", pair), pairs.only, source)
    is_cluster = engine.ray_address is not None
    plan = make_plan(columns, clip=clip, clap=clap, encoders=encoders, is_cluster=is_cluster)
    report = embed_with_bar(
        open_rows(published, read.source, source, plan.wanted),
        output,
        plan,
        pair_with=partner,
        dtype=encoders.stored,
        limit=source.limit,
        download=DownloadConfig(
            cache=downloads.cache,
            concurrency=downloads.connections,
            per_host=downloads.per_host,
            allow_private=downloads.allow_private,
            contact=downloads.contact,
        ),
        ray=RayConfig(engine.ray_address, engine.actors) if engine.engine == "ray" else None,
    )
    if run.as_json:
        typer.echo(json.dumps(extraction_facts(report), indent=2))
    else:
        print_extraction(report)
        plain_console().print(f"Next: clip2clap norms {report.folder}", soft_wrap=True)
    if not report.rows:
        raise typer.Exit(1)


def published_name(source: Sequence[str], options: DataOptions) -> str | None:
    """Return the name of a published data set, or None if the source is another.

    Raises:
        UserError: If captions files are named for another.
    """
    published = source[0] if len(source) == 1 and source[0] in _PUBLISHED_PAIRS else None
    require(
        published is not None or not options.captions,
        "captions",
        "goes with a published data set. Name the file as the data set instead.",
    )
    for captions in options.captions or ():
        check_exists(captions, "captions")
    return published


def make_plan(
    columns: "Sequence[Column]", *, clip: str, clap: str, encoders: Any, is_cluster: bool = False
) -> "EncoderPlan":
    """Return the plan of an extraction.

    Args:
        columns: Columns to embed.
        clip: Name of the CLIP.
        clap: Name of the CLAP or of a generator.
        encoders: Options `device`, `dtype` and `batch_size`.
        is_cluster: Whether devices are those of a cluster, of which nothing is known here.

    Raises:
        UserError: If the device cannot be used.
    """
    import torch

    from clip2clap.embeddings.extraction.plan import EncoderPlan

    if is_cluster and encoders.device != "auto":
        device = torch.device(encoders.device)
    else:
        device = choose_device(encoders.device)
    dtype = choose_dtype(encoders.dtype or "fp32", device)
    return EncoderPlan(
        tuple(columns),
        clip=_absolute(clip),
        clap=_absolute(clap),
        device=str(device),
        weights_dtype=torch.float32 if isinstance(dtype, str) else dtype,
        batch_size=encoders.batch_size,
    )


def embed_with_bar(
    rows: "Source", output: Path, plan: "EncoderPlan", *, limit: int | None, **options: Any
) -> "ExtractionReport":
    """Embed a data set under a progress bar; the arguments are those of `extraction.extract`."""
    from clip2clap.core.errors import ModelNotFoundError
    from clip2clap.embeddings.extraction.pipeline import extract as extract_embeddings

    with progress_bar(Console(stderr=True), "{task.description}") as progress:
        task = progress.add_task("Embedding", total=limit)
        try:
            return extract_embeddings(
                rows,
                output,
                plan,
                limit=limit,
                on_progress=lambda state: progress.update(
                    task,
                    completed=state.rows + state.failures,
                    description=f"{state.rows} rows, {state.failures} failed",
                ),
                **options,
            )
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{error} Or use --demo, the small models that come with clip2clap."
            ) from error


def extraction_facts(report: "ExtractionReport") -> dict[str, Any]:
    """Return an extraction's report as plain values."""
    return {**asdict(report), "folder": str(report.folder)}


def print_extraction(report: "ExtractionReport") -> None:
    """Print an extraction's report."""
    out = plain_console()
    out.print(
        f"{report.folder}: {report.rows} rows, {report.failures} failed, {report.new_rows} "
        f"rows in {report.seconds:.1f} s.",
        soft_wrap=True,
    )
    if report.failures:
        out.print(f"Reasons of failures: {report.folder}/failures.parquet", soft_wrap=True)


def open_rows(
    published: str | None, source: Sequence[str], options: DataOptions, wanted: Any
) -> "Source":
    """Open a published data set's files, or a data set of the user's.

    Args:
        published: Name of the published data set, if it is one.
        source: What was named as the data set.
        options: What to read of it.
        wanted: Inputs of the encoders.

    Raises:
        UserError: If there is no such data set or split, or files cannot be downloaded.
    """
    from clip2clap.embeddings.datasets.published import Split, published_files
    from clip2clap.embeddings.datasets.registry import open_source
    from clip2clap.embeddings.datasets.tables import ColumnNames

    split = options.split or "train"
    if published is None:
        own: dict[str, Any] = {}
        columns = ColumnNames()
        if isinstance(options, SourceOptions):
            own = {"format": options.source_format, **_published_options(options)}
            columns = ColumnNames(
                id=options.id_column,
                caption=options.caption_column,
                image=options.image_column,
                audio=options.audio_column,
                keep=tuple(options.keep or ()),
            )
        return open_source(list(source), columns=columns, split=split, wanted=wanted, **own)
    name, captions = cast("Published", published), options.captions or []
    if not captions:
        expected = f"expected train, val or test, got {split}."
        require(split in get_args(Split), "split", expected)
        captions = list(published_files(name, cast(Split, split), options.data))
    further = _published_options(options) if isinstance(options, SourceOptions) else {}
    return open_source(captions, format=name, wanted=wanted, **further)


def _published_options(options: SourceOptions) -> dict[str, Any]:
    names = ("audio", "frames", "language", "caption_field")
    return {name: getattr(options, name) for name in names}


def _default_stem(published: str | None, source: SourceOptions) -> str | None:
    """Return the default name of a published data set's table."""
    if published is None:
        return None
    captions = source.captions
    part = Path(captions[0].name.removesuffix(".gz")).stem if captions else source.split or "train"
    return f"{published}-{part}"


def _partner(pairs: PairOptions, stem: str | None) -> Path | None:
    """Return the table whose rows are joined."""
    if pairs.pair_with is None:
        return None
    require(pairs.only is not None, "pair_with", "goes with --only of the other side.")
    if pairs.pair_with != "auto":
        return Path(pairs.pair_with)
    require(stem is not None, "pair_with", "auto knows published data sets only. Name a table.")
    other = "clip" if pairs.only == "clap" else "clap"
    folder = Path(f"{stem}-{other}")
    require(
        (folder / "state.json").is_file(),
        "pair_with",
        f"there is no table {folder} yet. Make it first, as embedding_{other.upper()}.py does, or "
        "name another with --pair-with.",
    )
    return folder


def _columns(pair: PairName, only: str | None, source: SourceOptions) -> "tuple[Column, ...]":
    from clip2clap.embeddings.extraction.plan import PAIRS

    columns = set(PAIRS[pair])
    columns |= {"clap_audio"} if source.audio is not None else set()
    columns |= {"clip_image"} if source.frames is not None else set()
    chosen = sorted(column for column in columns if only is None or column.startswith(only))
    return cast("tuple[Column, ...]", tuple(chosen))


def _absolute(name: str) -> str:
    """Return a folder's absolute path, since an encoder may be loaded in another process."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name
