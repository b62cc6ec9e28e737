"""Searches in the index of a server: a page of what was found, with thumbnails and players."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clip2clap.core.errors import UserError
from clip2clap.search.query import Query, Term
from clip2clap.web.folders import Folders, named_error, safe_name
from clip2clap.web.runs import Run

if TYPE_CHECKING:
    from clip2clap.search.index import Hit, Index

Find = Literal["all", "image", "audio"]


@dataclass(frozen=True)
class SearchOrder:
    """Files to find in an index; texts of an index are not found."""

    terms: tuple[Term, ...]
    """Words, and uploaded images and audio by their paths."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of the uploads, by path."""
    find: Find = "all"
    count: int = 8
    distinct: bool = False

    @property
    def named(self) -> Query:
        """Query with the names of the uploads."""
        return Query(tuple(replace(t, value=self.names.get(t.value, t.value)) for t in self.terms))


def find_files(
    index: "Index", folders: Folders, folder: Path, order: SearchOrder, run: Run
) -> tuple[list[dict[str, Any]], list[str]]:
    """Find files, and write a page of them into a folder.

    Who knows the folder may read what was found, and no other file of the index.

    Returns:
        Name, modality, score and path in the folder of each file, the best first; and notes on
        what was not searched.

    Raises:
        UserError: If an upload cannot be read, or nothing can be searched.
        InterruptedCallError: If the run is cancelled.
    """
    from clip2clap.search.hits_page import write_hits_page

    run.advance(0.0, "Searching")
    counts = index.counts
    wanted: list[Any] = [
        modality
        for modality in ("image", "audio")
        if order.find in ("all", modality) and counts.get(modality)
    ]
    if not wanted:
        what = {"all": "images and no audio", "image": "images", "audio": "audio"}[order.find]
        raise UserError(f"The index holds no {what}.")
    try:
        hits, missing = index.search_each(
            Query(order.terms), wanted, k=order.count, distinct=order.distinct
        )
    except UserError as error:
        raise named_error(error, order.names) from error
    run.advance(0.5, "Drawing what was found")
    shown = _linked(folders, folder, hits)
    write_hits_page(folder / "index.html", [hit for _, hit in shown], query=Query(order.terms))
    files = [
        {
            "name": Path(hit.path).name,
            "modality": found.modality,
            "score": found.score,
            "file": str(Path(hit.path).relative_to(folder)),
        }
        for found, hit in shown
    ]
    notes = [f"No {modality} is searched. {error}" for modality, error in missing.items()]
    return files, notes


def _linked(folders: Folders, folder: Path, hits: "Sequence[Hit]") -> "list[tuple[Hit, Hit]]":
    """Return the files that are still there, each with its own link in the folder."""
    shown = []
    for number, hit in enumerate(hits, 1):
        path = Path(hit.path)
        try:
            link = folders.link(folder, f"{number}/{safe_name(path.name)}", path)
        except OSError:
            continue
        shown.append((hit, replace(hit, path=str(link))))
    return shown
