"""`clip2clap extract`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer
from rich.console import Console

from clip2clap.cli.options import (
    Captions,
    DataFolder,
    DataSplit,
    DemoModels,
    Device,
    DtypeName,
    EncoderDtype,
    Json,
    OptionError,
    choose_device,
    choose_dtype,
    require,
)
from clip2clap.cli.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from clip2clap.embeddings.datasets.base import Source
    from clip2clap.embeddings.datasets.published import Published
    from clip2clap.embeddings.extraction.pipeline import ExtractionReport
    from clip2clap.embeddings.extraction.plan import Column, EncoderPlan

PairName = Literal["image-audio", "image-caption", "caption-caption", "audio-caption"]
FormatName = Literal[
    "auto", "audiocaps", "conceptual-captions", "wit", "folder", "table", "datasets", "webdataset"
]

# What is embedded of a published data set by default: what it holds.
PUBLISHED: dict[str, PairName] = {
    "audiocaps": "caption-caption",
    "conceptual-captions": "image-caption",
    "wit": "image-caption",
}
_AUTO = "auto"
_DATA = "Data set"
_COLUMNS = "A table or data set of your own"
_MODELS = "Models"
_DOWNLOADS = "Downloads"
_RUNNING = "Running"


def extract(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="audiocaps, conceptual-captions or wit; or a folder, a CSV, TSV or Parquet file, "
            "tar shards, or a datasets id or folder.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            "-o",
            metavar="FOLDER",
            help="Where the table is written; by default named by a published data set and split.",
        ),
    ] = None,
    pair: Annotated[
        PairName | None,
        typer.Option(help="What is paired: the CLIP's side, then the CLAP's.", show_default=False),
    ] = None,
    only: Annotated[
        Literal["clip", "clap"] | None,
        typer.Option(help="Embed one side of the pair.", show_default=False),
    ] = None,
    pair_with: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="Join the rows of this table, made of the same data set with --only; auto takes "
            "the one that --only of the other side writes by default.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first rows.", show_default=False)
    ] = None,
    format: Annotated[
        FormatName, typer.Option(help="What SOURCE is.", rich_help_panel=_DATA)
    ] = "auto",
    split: DataSplit = "train",
    captions: Captions = None,
    data: DataFolder = Path("."),
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="audiocaps: its sounds, embedded too.", rich_help_panel=_DATA
        ),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="audiocaps: its frames, embedded too.", rich_help_panel=_DATA
        ),
    ] = None,
    language: Annotated[
        str,
        typer.Option(
            metavar="CODE", help="wit: en is English, uk Ukrainian.", rich_help_panel=_DATA
        ),
    ] = "en",
    caption_field: Annotated[
        Literal["auto", "reference", "attribution", "alt"],
        typer.Option(
            help="wit: the caption; auto takes the first that is there.", rich_help_panel=_DATA
        ),
    ] = "auto",
    id_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", rich_help_panel=_COLUMNS)
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", rich_help_panel=_COLUMNS)
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Paths or URLs.", rich_help_panel=_COLUMNS),
    ] = None,
    audio_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Paths.", rich_help_panel=_COLUMNS)
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A further column to keep beside the embeddings; may be repeated.",
            rich_help_panel=_COLUMNS,
        ),
    ] = None,
    clip: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="A CLIP: preset, hub id or folder.", rich_help_panel=_MODELS
        ),
    ] = "clip-vit-base-patch32",
    clap: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A CLAP: preset, hub id or folder; of an AudioLDM its own.",
            rich_help_panel=_MODELS,
        ),
    ] = "audioldm-s-full-v2",
    demo: DemoModels = False,
    dtype: EncoderDtype = "fp32",
    stored: Annotated[
        Literal["float16", "float32"],
        typer.Option(help="Number format of the table.", rich_help_panel=_MODELS),
    ] = "float16",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep downloaded pictures here, for the next encoder.",
            rich_help_panel=_DOWNLOADS,
        ),
    ] = None,
    connections: Annotated[
        int, typer.Option(metavar="N", help="At once.", rich_help_panel=_DOWNLOADS)
    ] = 64,
    per_host: Annotated[
        int, typer.Option(metavar="N", help="At once to one server.", rich_help_panel=_DOWNLOADS)
    ] = 4,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private",
            help="Also download from this machine and its network.",
            rich_help_panel=_DOWNLOADS,
        ),
    ] = False,
    contact: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Yours, told to the servers; Wikimedia asks for one.",
            rich_help_panel=_DOWNLOADS,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="By default 64 captions or pictures, or 16 sounds.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    device: Device = "auto",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray runs the same on many machines.", rich_help_panel=_RUNNING),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Ray cluster; by default one is started here.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="ray: encoders side by side; by default one a GPU, or 2.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Embed a data set with CLIP and CLAP into a table of pairs.

    A run that was stopped goes on where it stood, if it is started again as before. Rows that can't
    be embedded stand in the table's failures.parquet with the reason.
    """
    published = source[0] if len(source) == 1 and source[0] in PUBLISHED else None
    require(engine == "ray" or ray_address is None, "--ray-address", "goes with --engine ray.")
    require(engine == "ray" or actors is None, "--actors", "goes with --engine ray.")
    require(limit is None or limit > 0, "--limit", f"expected 1 or more, got {limit}.")
    require(published is not None or not captions, "--captions", "name the file as SOURCE instead.")
    pair = pair or (PUBLISHED[published] if published else None)
    if pair is None:
        raise OptionError(f"--pair: say what is paired: {', '.join(get_args(PairName))}.")
    part = Path(captions[0].name.removesuffix(".gz")).stem if captions else split
    stem = f"{published}-{part}" if published else None
    if output is None:
        require(stem is not None, "--output", "name a folder for the table.")
        output = Path(f"{stem}-{only}" if only and pair_with is None else str(stem))
    partner = _partner(pair_with, only, stem)

    from clip2clap.embeddings.download.config import DownloadConfig
    from clip2clap.embeddings.extraction.plan import EncoderPlan, RayConfig

    weights_dtype, on = dtype_and_device(dtype, device, cluster=ray_address is not None)
    plan = EncoderPlan(
        _columns(pair, only, audio=audio is not None, frames=frames is not None),
        clip=whole_path("demo" if demo else clip),
        clap=whole_path("demo" if demo else clap),
        device=on,
        weights_dtype=weights_dtype,
        batch_size=batch_size,
    )
    fields = {
        "id": id_column,
        "caption": caption_column,
        "image": image_column,
        "audio": audio_column,
        "keep": tuple(keep or ()),
    }
    rows = open_rows(
        published,
        source,
        captions=captions or [],
        data=data,
        split=split,
        wanted=plan.wanted,
        format=format,
        fields=fields,
        audio=audio,
        frames=frames,
        language=language,
        caption_field=caption_field,
    )
    download = DownloadConfig(
        cache=cache,
        concurrency=connections,
        per_host=per_host,
        allow_private=allow_private,
        contact=contact,
    )
    report = embed_with_bar(
        rows,
        output,
        plan,
        pair_with=partner,
        dtype=stored,
        limit=limit,
        download=download,
        ray=RayConfig(ray_address, actors) if engine == "ray" else None,
    )
    if as_json:
        typer.echo(json.dumps(extraction_facts(report), indent=2))
    else:
        print_extraction(report)
        out = Console(highlight=False, markup=False)
        out.print(f"Next: clip2clap norms {report.folder}", soft_wrap=True)
    if not report.rows:
        raise typer.Exit(1)


def embed_with_bar(
    rows: "Source", output: Path, plan: "EncoderPlan", *, limit: int | None, **options: Any
) -> "ExtractionReport":
    """Embed a data set under a progress bar; the arguments are `extraction.extract`'s."""
    from clip2clap.embeddings.checkpoint import ModelNotFoundError
    from clip2clap.embeddings.extraction.pipeline import extract as extract_embeddings

    console = Console(stderr=True)
    with progress_bar(console, "{task.description}") as progress:
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
                f"{error} Or take --demo, the small models that come with clip2clap."
            ) from error


def extraction_facts(report: "ExtractionReport") -> dict[str, Any]:
    """Give what an extraction did as plain values, for JSON."""
    return {**asdict(report), "folder": str(report.folder)}


def print_extraction(report: "ExtractionReport") -> None:
    """Print what an extraction did."""
    out = Console(highlight=False, markup=False)
    out.print(
        f"{report.folder}: {report.rows} rows, {report.failures} failed, {report.new_rows} "
        f"rows in {report.seconds:.1f} s.",
        soft_wrap=True,
    )
    if report.failures:
        out.print(f"Why rows failed: {report.folder}/failures.parquet", soft_wrap=True)


def _partner(pair_with: str | None, only: str | None, stem: str | None) -> Path | None:
    """Find the table to be joined."""
    if pair_with is None:
        return None
    require(only is not None, "--pair-with", "goes with --only: the other side is in the table.")
    if pair_with != _AUTO:
        return Path(pair_with)
    require(stem is not None, "--pair-with", "auto knows the published data sets; name a table.")
    other = "clip" if only == "clap" else "clap"
    folder = Path(f"{stem}-{other}")
    require(
        (folder / "state.json").is_file(),
        "--pair-with",
        f"there is no table {folder} yet. Make it first, as embedding_{other.upper()}.py does, or "
        "name another with --pair-with.",
    )
    return folder


def _columns(
    pair: PairName, only: str | None, *, audio: bool, frames: bool
) -> "tuple[Column, ...]":
    from clip2clap.embeddings.extraction.plan import PAIRS

    columns = set(PAIRS[pair])
    columns |= {"clap_audio"} if audio else set()
    columns |= {"clip_image"} if frames else set()
    chosen = sorted(column for column in columns if only is None or column.startswith(only))
    return cast("tuple[Column, ...]", tuple(chosen))


def whole_path(name: str) -> str:
    """Give a folder's whole path: an encoder may be loaded in another process."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def dtype_and_device(
    dtype: DtypeName, device: str, *, cluster: bool = False
) -> "tuple[torch.dtype, str]":
    """Find the number format and the device that encoders compute in.

    Raises:
        OptionError: If there is no such device here, or it can't use the format.
    """
    import torch

    # Of a cluster's devices nothing is known here.
    on = torch.device(device) if cluster and device != _AUTO else choose_device(device)
    chosen = choose_dtype(dtype, on)
    return (torch.float32 if isinstance(chosen, str) else chosen), str(on)


def open_rows(
    published: str | None,
    source: list[str],
    *,
    captions: list[Path],
    data: Path,
    split: str,
    fields: dict[str, Any],
    format: FormatName,
    **options: Any,
) -> "Source":
    """Open a published data set's files, or one's own; `options` are `open_source`'s.

    Raises:
        OptionError: If the published data set has no such split.
        UserError: If there is no such data set, or its files can't be fetched.
    """
    from clip2clap.embeddings.datasets.published import Split, published_files
    from clip2clap.embeddings.datasets.registry import open_source
    from clip2clap.embeddings.datasets.tables import ColumnNames

    if published is None:
        return open_source(
            source, format=format, columns=ColumnNames(**fields), split=split, **options
        )
    name = cast("Published", published)
    if not captions:
        require(split in get_args(Split), "--split", f"expected train, val or test, got {split}.")
        captions = list(published_files(name, cast(Split, split), data))
    return open_source(captions, format=name, **options)
