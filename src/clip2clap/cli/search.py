"""The verb `search`."""

import os
import re
import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_device, check_index, check_translator, choose_device, require
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.search import Search
from clip2clap.cli.outputs import make_folder
from clip2clap.cli.progress import RunReport, note, plain_table
from clip2clap.cli.spoken import parse_speech
from clip2clap.core.errors import UserError
from clip2clap.search.query import Query, parse_query

_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def search(options: Search) -> None:
    """Find images, audio and texts of an index by any of them, by words, and by sums of these.

    Images find audio, and audio finds images, through the translators. A query begins with a
    file or words, and goes on with + or -, each between spaces.
    """
    spoken: list[str] = []
    for file, weight in parse_speech(options):
        spoken += [*(["-"] if weight < 0 else []), f"speech:{file}:{abs(weight):f}"]
    words = list(options.query or [])
    require(words or spoken, "query", "give a file, words, or --speech FILE.")
    query = parse_query([*words, *spoken])
    filters = {
        "within": options.within,
        "since": _parse_date(options.since, "since"),
        "until": _parse_date(options.until, "until"),
        "label": options.label,
        "labels": options.labels,
    }
    _check(options)
    report = RunReport(options)
    with Console(stderr=True).status("Searching"):
        hits = _search(options, query, filters)
    report.lap("generate")
    report.results = [asdict(hit) for hit in hits]
    if options.html is not None:
        from clip2clap.search.hits_page import write_hits_page

        write_hits_page(options.html, hits, query=query)
    if hits:
        report.show(_table(hits))
    else:
        note("Nothing in the index passes the filters.")
    if options.html is not None:
        report.show(str(options.html))
    report.end()


def _check(options: Search) -> None:
    check_index(options.index)
    if options.html is not None:
        require(options.html.suffix.lower() == ".html", "html", "expected a name in .html.")
        make_folder(options.html.parent, "html")
    check_models(options)
    check_translator(options.back, "back")
    check_device(options.device, None)


def _search(options: Search, query: Query, filters: Any) -> list[Any]:
    from clip2clap.search.index import Index
    from clip2clap.translator.auto import AutoTranslator

    device = choose_device(options.device)
    names = [name for name in (options.translator, options.back) if name is not None]
    index = Index(
        options.index,
        clip=options.clip,
        clap=options.clap,
        translators=[AutoTranslator.from_pretrained(name).to(device) for name in names],
        device=device,
        speech_encoder=options.speech_encoder,
    )
    require(len(index), "index", f"{options.index} has no entries. Index some files first.")
    wanted: list[Any] = [
        m for m, count in index.counts.items() if count and options.find in ("all", m)
    ]
    require(wanted, "find", f"{options.index} holds no {options.find}.")
    hits, missing = index.search_each(
        query,
        wanted,
        k=options.top,
        csls=options.csls,
        distinct=options.distinct,
        exact=options.exact,
        **filters,
    )
    for modality, error in missing.items():
        note(f"note: no {modality} is searched. {error}")
    return hits


def _table(hits: list[Any]) -> Any:
    table = plain_table("found", "type", "score")
    here = os.getcwd() + os.sep
    for hit in hits:
        name = hit.path.removeprefix(here)
        if hit.text is not None:
            name = f"{name}:{hit.line} {hit.text}"
        table.add_row(name, hit.modality, f"{hit.score:.3f}")
    return table


def _parse_date(value: str | None, param: str) -> float | None:
    """Return a date, or a time before now, in s since 1970."""
    if value is None:
        return None
    if past := re.fullmatch(r"(\d+)([hdw])", value):
        return time.time() - int(past[1]) * _SECONDS[past[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(
            f"expected a date such as 2026-05-31 or 2026-05-31T18:00, or 12h, 7d, 4w ago, got "
            f"{value!r}.",
            param=param,
        ) from error
