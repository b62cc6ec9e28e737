"""The verb `extract`."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import typer

from clip2clap.cli.checks import (
    check_data,
    check_device,
    check_exists,
    choose_dtype,
    choose_run_device,
    ray_config,
    require,
)
from clip2clap.cli.options.data import Data, Extract, PairName
from clip2clap.cli.progress import RunReport, note, progress_bar
from clip2clap.core.files import as_path
from clip2clap.core.presets import DEFAULT_CLIP, DEFAULT_GENERATOR, check_name

# Pair of each published data set: the modalities that it has.
_PUBLISHED_PAIRS: dict[str, PairName] = {
    "audiocaps": "caption-caption",
    "conceptual-captions": "image-caption",
    "wit": "image-caption",
}


def extract(options: Extract) -> None:
    """Embed a data set with CLIP and CLAP into a table of pairs.

    A run that was stopped continues where it stopped if it is started again in the same way. Rows
    that cannot be embedded are listed in the table's failures.parquet with the reason, and counted
    on stderr; the exit code is 1 if there are no others, since most data sets have dead links.
    """
    clip = "demo" if options.demo else options.clip or DEFAULT_CLIP
    clap = "demo" if options.demo else options.clap or DEFAULT_GENERATOR
    check_name(clip, "clip", param="clip")
    check_name(clap, "clap", param="clap")
    check_device(options.device, options.dtype)
    published = published_name(options.source, options)
    for param in ("audio", "frames"):
        if getattr(options, param) is not None:
            check_exists(getattr(options, param), param)
    ray = ray_config(options)
    pair = options.pair or (_PUBLISHED_PAIRS[published] if published else None)
    pair_names = ", ".join(get_args(PairName))
    require(pair is not None, "pair", f"needed for your own data, one of {pair_names}.")
    stem = _default_stem(published, options)
    only = f"-{options.only}" if options.only and options.pair_with is None else ""
    output = options.output or Path(f"{stem}{only}" if stem else "clip2clap-extract")
    partner = _partner(options, stem)

    from clip2clap.embeddings.download.config import DownloadConfig

    report = RunReport(options)
    plan = make_plan(_columns(str(pair), options), clip=clip, clap=clap, options=options)
    table = embed_with_bar(
        open_rows(published, options.source, options, plan.wanted),
        output,
        plan,
        pair_with=partner,
        dtype=options.stored,
        limit=options.limit,
        download=DownloadConfig(
            cache=options.cache,
            concurrency=options.connections,
            per_host=options.per_host,
            allow_private=options.allow_private,
            contact=options.contact,
        ),
        ray=ray,
    )
    show_extraction(table, report)
    if table.rows:
        report.show(f"Next: clip2clap norms {shlex.quote(str(table.folder))}")
    report.end(asdict(table))
    if not table.rows:
        raise typer.Exit(1)


def published_name(source: Sequence[str], options: Data) -> str | None:
    """Return the name of a published data set, or None if the source is another."""
    published = source[0] if len(source) == 1 and source[0] in _PUBLISHED_PAIRS else None
    require(
        published is not None or not options.captions,
        "captions",
        "goes with a published data set. Name the file as the data set instead.",
    )
    if published is None:
        check_data(source, "source")
    for captions in options.captions or ():
        check_exists(captions, "captions")
    return published


def make_plan(columns: Sequence[Any], *, clip: str, clap: str, options: Any) -> Any:
    """Return the plan of an extraction; the device of a cluster is not checked here."""
    import torch

    from clip2clap.embeddings.extraction.plan import EncoderPlan

    device = choose_run_device(options)
    dtype = choose_dtype(options.dtype or "fp32", device)
    return EncoderPlan(
        tuple(columns),
        clip=_absolute(clip),
        clap=_absolute(clap),
        device=str(device),
        weights_dtype=torch.float32 if isinstance(dtype, str) else dtype,
        batch_size=options.batch_size,
    )


def embed_with_bar(
    rows: Any, output: Path, plan: Any, *, limit: int | None, **settings: Any
) -> Any:
    """Embed a data set under a progress bar; the arguments are those of `extraction.extract`."""
    from clip2clap.core.errors import ModelNotFoundError
    from clip2clap.embeddings.extraction.pipeline import extract as extract_embeddings

    with progress_bar("{task.description}") as progress:
        task = progress.add_task("Embedding", total=limit)

        def on_progress(rows: int, failures: int) -> None:
            description = f"{rows} rows, {failures} failed"
            progress.update(task, completed=rows + failures, description=description)

        try:
            return extract_embeddings(
                rows, output, plan, limit=limit, on_progress=on_progress, **settings
            )
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{error} Or use --demo, the small models that come with clip2clap."
            ) from error


def show_extraction(table: Any, report: RunReport) -> None:
    """Print an extraction's report, and on stderr the number of failures and the first reason."""
    from clip2clap.embeddings.table.reader import EmbeddingTable

    counts = f"{table.rows} rows, {table.failures} failed, {table.new_rows} rows in"
    report.show(f"{table.folder}: {counts} {table.seconds:.1f} s.")
    if table.failures:
        row_id, reason = next(iter(EmbeddingTable.open(table.folder).failures(1).items()))
        line = (
            f"warning: {table.failures} of {table.rows + table.failures} rows failed, the first "
            f"one, {row_id}: {reason}. All reasons: {table.folder}/failures.parquet"
        )
        note(line)


def open_rows(published: str | None, source: Sequence[str], options: Data, wanted: Any) -> Any:
    """Open a published data set's files, or a data set of the user's."""
    from clip2clap.embeddings.datasets.published import Split, published_files
    from clip2clap.embeddings.datasets.registry import open_source
    from clip2clap.embeddings.datasets.tables import ColumnNames

    split, columns = options.split or "train", ColumnNames()
    own: dict[str, Any] = {}
    if isinstance(options, Extract):
        names = ("audio", "frames", "language", "caption_field")
        own = {name: getattr(options, name) for name in names}
        columns = ColumnNames(
            id=options.id_column,
            caption=options.caption_column,
            image=options.image_column,
            audio=options.audio_column,
            keep=tuple(options.keep or ()),
        )
    if published is None:
        format: Any = getattr(options, "source_format", "auto")
        return open_source(
            list(source), columns=columns, split=split, wanted=wanted, format=format, **own
        )
    name, captions = cast(Any, published), options.captions or []
    if not captions:
        expected = f"expected train, val or test, got {split}."
        require(split in get_args(Split), "split", expected)
        captions = list(published_files(name, cast(Any, split), options.data))
    return open_source(captions, format=name, wanted=wanted, **own)


def _default_stem(published: str | None, options: Extract) -> str | None:
    """Return the default name of a published data set's table."""
    if published is None:
        return None
    captions = options.captions
    part = Path(captions[0].name.removesuffix(".gz")).stem if captions else options.split or "train"
    return f"{published}-{part}"


def _partner(options: Extract, stem: str | None) -> Path | None:
    """Return the table whose rows are joined."""
    if options.pair_with is None:
        return None
    require(options.only is not None, "pair_with", "goes with --only of the other side.")
    if options.pair_with != "auto":
        check_exists(options.pair_with, "pair_with")
        return Path(options.pair_with)
    require(stem is not None, "pair_with", "auto knows published data sets only. Name a table.")
    other = "clip" if options.only == "clap" else "clap"
    folder = Path(f"{stem}-{other}")
    require(
        (folder / "state.json").is_file(),
        "pair_with",
        f"there is no table {folder} yet. Make it first, as embedding_{other.upper()}.py does, or "
        "name another with --pair-with.",
    )
    return folder


def _columns(pair: str, options: Extract) -> list[str]:
    from clip2clap.embeddings.extraction.plan import PAIRS

    columns: set[str] = set(cast(Any, PAIRS)[pair])
    columns |= {"clap_audio"} if options.audio is not None else set()
    columns |= {"clip_image"} if options.frames is not None else set()
    return sorted(column for column in columns if column.startswith(options.only or ""))


def _absolute(name: str) -> str:
    """Return a folder's absolute path, since an encoder may be loaded in another process."""
    folder = as_path(name)
    return str(folder.resolve()) if folder.is_dir() else name
