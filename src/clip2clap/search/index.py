"""Index of images, audio and texts: any of them finds any of them."""

import difflib
import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pyarrow import compute
from torch import Tensor

from clip2clap.core.errors import UserError, expect, is_integer
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.embeddings.space import Modality
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.metrics.retrieval import crowding
from clip2clap.search.files import is_inside
from clip2clap.search.labels import Vocabulary, read_vocabulary
from clip2clap.search.nearest import Vectors
from clip2clap.search.query import Query, parse_query
from clip2clap.search.query_vectors import Known, MissingTranslatorError, QueryEncoder
from clip2clap.search.store import COLUMNS, MODALITIES, Store
from clip2clap.translator.base import Translator

_compute: Any = compute

Find = Literal["all", "image", "audio", "text"]

NEAR_DUPLICATE = 0.95
"""Cosine similarity from which on two results of one search are near-duplicates."""

# Contents whose spread makes the terms of a query comparable, and references of CSLS.
_REFERENCES = 4096
_NEIGHBORS = 10
# Norm of a sum of terms, relative to their weights, at which rounding is all that is left.
_CANCELLED = 1e-4
# Results among which CSLS or `distinct` choose, for each one that is wanted.
_CHOICE, _LEAST_CHOICE = 20, 1000
# Vectors that are named at once.
_BLOCK = 4096


@dataclass(frozen=True)
class Hit:
    """File, or line of a text file, that a search found."""

    path: str
    """Absolute path."""

    modality: Modality
    """Modality, `"image"`, `"audio"` or `"text"`."""

    score: float
    """Cosine similarity to the query, or its CSLS."""

    mtime: float
    """Time of the file's last change, in s since 1970."""

    line: int | None = None
    """Line of a text file, from 1."""

    text: str | None = None
    """The line."""


class Index:
    """Index that `update_index` wrote, opened for searching.

    Args:
        folder: Folder of the index.
        clip: CLIP for queries, or its name; by default the one that the index was made with.
        clap: CLAP for queries, or its name.
        translators: Translators from one's space into the other's, for images that find audio and
            audio that finds images; by default the demo translators where they fit.
        device: Device of encoders that are loaded.
        speech_encoder: Speech encoder for spoken terms, or its name; by default the demo's.
        longest_s: Length of audio in a query, in s, from which on it is refused.

    Raises:
        UserError: If the folder holds no index, or it is damaged.

    Examples:
        >>> from clip2clap.search import Index, update_index
        >>> _ = update_index(["photos", "recordings"], "library")
        >>> index = Index("library")
        >>> len(index)
        6
        >>> [hit.modality for hit in index.search("dog.jpg", find="audio", k=2)]
        ['audio', 'audio']
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        clip: ClipEncoder | str | None = None,
        clap: ClapEncoder | str | None = None,
        translators: Sequence[Translator] = (),
        device: torch.device | str | None = None,
        speech_encoder: SpeechEncoder | str | None = None,
        longest_s: float | None = None,
    ):
        # A run that updates the index may replace files between the reading of two of them.
        try:
            store, self._parts = _open(folder)
        except UserError:
            store, self._parts = _open(folder)
        spaces = {c: s for part in self._parts.values() for c, s in part.table.spaces.items()}
        models = store.settings.models
        self._queries = QueryEncoder(
            models, spaces, clip, clap, translators, device, speech_encoder, longest_s
        )

    def share(
        self,
        encoders: "Sequence[ClipEncoder | ClapEncoder]" = (),
        translators: Sequence[Translator] = (),
    ) -> None:
        """Use models that are loaded already for queries, of these the ones that fit the index."""
        self._queries.share(encoders, translators)

    def __len__(self) -> int:
        """Return the number of files and lines that can be found."""
        return sum(len(part.rows) for part in self._parts.values())

    @property
    def counts(self) -> dict[Modality, int]:
        """Numbers of files and lines that can be found, by modality."""
        return {modality: len(part.rows) for modality, part in self._parts.items()}

    def search(
        self,
        query: Query | str | Path | Sequence[str],
        *,
        find: Find = "all",
        k: int = 10,
        csls: bool = False,
        distinct: bool = False,
        within: str | Path | None = None,
        since: float | None = None,
        until: float | None = None,
        label: str | None = None,
        labels: str | Path | Sequence[str] = "demo",
        exact: bool = False,
    ) -> list[Hit]:
        """Find the files and lines nearest to a query.

        Images are compared in CLIP's space, audio in CLAP's, texts in that of the query; terms of
        the other space are translated. A term counts by how much it distinguishes the entries:
        its similarities are divided by their standard deviation over the index.

        Args:
            query: Query, or what `parse_query` takes.
            find: Modality to find; `"all"` finds each of those in the index.
            k: Number of results per modality.
            csls: Rank by cross-domain similarity local scaling (Conneau et al. 2018, arXiv
                1710.04087), which keeps hubs, the entries near to everything, back.
            distinct: Leave out near-duplicates of better results, at `NEAR_DUPLICATE`.
            within: Folder of the results, or a pattern of their paths such as `*/dogs/*.wav`.
            since: Earliest time of the files' last change, in s since 1970.
            until: Latest time.
            label: Likeliest one of `labels` for an image or audio; a word of a text.
            labels: Labels to choose from, as for `read_vocabulary`.
            exact: Compare with every vector, also where fast search is at hand.

        Returns:
            Images, then audio, then texts; the best first.

        Raises:
            UserError: If a file of the query cannot be read, a term needs a translator that there
                is none for, or an argument is out of range.
            SpaceMismatchError: If an encoder or translator is not that of the index.
        """
        expect(find in ("all", *COLUMNS), "find", f"one of all, {', '.join(COLUMNS)}", find)
        expect(is_integer(k) and k > 0, "k", "at least 1", k)
        parsed = query if isinstance(query, Query) else parse_query(query)
        words = None if label is None else _words(label, labels)
        hits: list[Hit] = []
        known: Known = {}
        for modality in MODALITIES:
            part = self._parts.get(modality)
            if find not in ("all", modality) or part is None:
                continue
            chosen = part.choose(within, since, until)
            if words is not None:
                named = self._named(part, *words)
                chosen = named if chosen is None else chosen & named
            if chosen is None or chosen.any():
                hits += self._search_part(part, parsed, chosen, k, csls, distinct, exact, known)
        return hits

    def _search_part(
        self,
        part: "_Part",
        query: Query,
        chosen: np.ndarray | None,
        k: int,
        csls: bool,
        distinct: bool,
        exact: bool,
        known: Known,
    ) -> list[Hit]:
        """Find the chosen entries of one modality, None for all, that are nearest to a query."""
        column = self._queries.column(query, part.modality)
        vector = self._combine(query, part, column, known)
        finder = _Finder(part, column, vector, chosen, k)
        if csls:
            scores, rows = finder.by_csls(self._references(query, part, column), exact)
        else:
            scores, rows = finder.by_cosine(distinct, exact)
        return finder.hits(scores, rows, distinct)

    def _named(self, part: "_Part", label: str, words: Vocabulary) -> np.ndarray:
        """Return which of the entries have a label of a vocabulary, shape (n,), bool."""
        if part.modality == "text":
            pattern = "|".join(re.escape(text) for text in (label, *words[label]))
            wanted = re.compile(rf"\b({pattern})\b", re.IGNORECASE)
            texts = part.table.data["text"]
            found = [row for row in part.live if wanted.search(texts[int(row)].as_py())]
            return np.isin(part.rows, found)
        column, family = next(iter(COLUMNS[part.modality].items()))
        classifier = ZeroShotClassifier(self._queries.encoder(family), words)
        place, vectors = classifier.labels.index(label), part.vectors(column)
        blocks = np.array_split(part.live, -(-len(part.live) // _BLOCK))
        named = [
            rows[(classifier.probabilities(vectors.at(rows)).argmax(1) == place).numpy()]
            for rows in blocks
        ]
        return np.isin(part.rows, np.concatenate(named))

    def search_each(
        self, query: Query, modalities: Sequence[Modality], **options: Any
    ) -> tuple[list[Hit], dict[Modality, MissingTranslatorError]]:
        """Find the files nearest to a query in some modalities, those it can be compared with.

        Args:
            query: Query.
            modalities: Modalities to find.
            **options: As for `search`.

        Returns:
            Results of one modality after the other, and the reasons why others were not searched.

        Raises:
            UserError: As for `search`; for a missing translator, if nothing can be searched.
        """
        hits: list[Hit] = []
        missing: dict[Modality, MissingTranslatorError] = {}
        for modality in modalities:
            try:
                hits += self.search(query, find=modality, **options)
            except MissingTranslatorError as error:
                missing[modality] = error
                if len(missing) == len(modalities):
                    raise
        return hits, missing

    def _combine(
        self, query: Query, part: "_Part", column: str, known: Known | None = None
    ) -> Tensor:
        """Return the weighted sum of a query's terms, shape (dim,), unit norm."""
        terms = self._queries.encode(query, column, known)  # (terms, dim)
        weights = torch.tensor([term.weight for term in query.terms])
        if len(terms) > 1:
            spread = (part.sample(column) @ terms.T).std(0, correction=0)  # (terms,)
            weights = weights / spread.clamp(min=1e-6) if bool((spread > 1e-6).all()) else weights
        vector = weights @ terms
        norm = float(vector.norm())
        if norm < _CANCELLED * float(weights.abs().sum()):
            raise UserError("The terms of the query cancel each other.", param="query")
        return vector / norm

    def _references(self, query: Query, part: "_Part", column: str) -> Tensor:
        """Return the vectors that queries such as this have, for CSLS, shape (n, dim).

        They are those in the index of the first term's modality, translated if need be; without
        enough of them, those that are searched.
        """
        first = query.terms[0].modality
        modality: Modality = "text" if first == "speech" else first
        own = self._parts.get(modality)
        if own is None or len(own.rows) < _NEIGHBORS:
            return part.sample(column)
        return self._queries.carry(own.sample, modality, column)


def _words(label: str, labels: str | Path | Sequence[str]) -> tuple[str, Vocabulary]:
    """Return a label as its vocabulary writes it, and the vocabulary."""
    vocabulary = read_vocabulary(labels)
    found = next((each for each in vocabulary if each.casefold() == label.casefold()), None)
    if found is None:
        close = difflib.get_close_matches(label, vocabulary, n=3) or list(vocabulary)[:5]
        raise UserError(
            f"There is no label {label!r} among {len(vocabulary)}, such as {', '.join(close)}.",
            param="label",
        )
    return found, vocabulary


def _open(folder: str | Path) -> "tuple[Store, dict[Modality, _Part]]":
    store = Store.open(folder)
    files = store.read_files()
    tables: dict[Modality, EmbeddingTable | None]
    tables = {modality: store.open_table(modality) for modality in MODALITIES}
    return store, {m: _Part(store, m, t, files) for m, t in tables.items() if t is not None}


class _Part:
    """Entries and vectors of one modality."""

    def __init__(self, store: Store, modality: Modality, table: EmbeddingTable, files: pa.Table):
        self.modality: Modality = modality
        self.table = table
        self._folder = store.folder
        own = files.filter(_compute.equal(files["modality"], modality))
        rows = _compute.index_in(own["id"], value_set=table.data["id"].combine_chunks())
        # Failures have no content; contents without a vector are encoded by the next run.
        own = own.append_column("row", rows).filter(_compute.is_valid(rows))
        own = own.sort_by([("row", "ascending"), ("path", "ascending"), ("line", "ascending")])
        self.files = own.combine_chunks()
        self.rows = own["row"].to_numpy().astype(np.int64)  # of the vectors, ascending
        self.live = np.unique(self.rows)
        self._vectors: dict[str, Vectors] = {}
        self._samples: dict[str, Tensor] = {}

    def vectors(self, column: str) -> Vectors:
        """Return the vectors of a column."""
        if column not in self._vectors:
            name = f"{self.modality}.{column}"
            self._vectors[column] = Vectors(self.table, column, folder=self._folder, name=name)
        return self._vectors[column]

    def sample(self, column: str) -> Tensor:
        """Return some of the vectors, the same in every index of these contents, shape (n, dim)."""
        if column not in self._samples:
            live = self.live
            if len(live) > _REFERENCES:
                ids = np.array(self.table.data["id"].take(pa.array(live)).to_pylist())
                live = np.sort(live[np.argsort(ids)[:_REFERENCES]])
            self._samples[column] = self.vectors(column).at(live)
        return self._samples[column]

    def choose(
        self, within: str | Path | None, since: float | None, until: float | None
    ) -> np.ndarray | None:
        """Return which of the entries pass the filters, shape (n,), bool; None if all do."""
        if within is None and since is None and until is None:
            return None
        chosen = np.ones(len(self.rows), bool)
        mtime = self.files["mtime_ns"].to_numpy()
        if since is not None:
            chosen &= mtime >= since * 1e9
        if until is not None:
            chosen &= mtime <= until * 1e9
        if within is not None:
            paths = map(os.fsdecode, self.files["path"].to_pylist())
            if set(str(within)) & set("*?["):
                fits = [fnmatch.fnmatchcase(path, str(within)) for path in paths]
            else:
                folder = os.path.abspath(os.path.expanduser(within))
                fits = [is_inside(path, folder) for path in paths]
            chosen &= np.array(fits, bool)
        return chosen


class _Finder:
    """One search in the entries of one modality."""

    def __init__(self, part: _Part, column: str, vector: Tensor, chosen: np.ndarray | None, k: int):
        self._part, self._vectors, self._query, self._k = part, part.vectors(column), vector, k
        self._chosen = chosen
        rows = part.live if chosen is None else np.unique(part.rows[chosen])
        self._rows = rows
        # None searches all vectors, with those of files that are gone.
        self._only = None if len(rows) == len(self._vectors) else rows

    def _search(self, k: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        dead = len(self._vectors) - len(self._part.live)
        if self._chosen is None and self._vectors.is_fast and not exact:
            scores, rows = self._vectors.search(self._query, k + min(dead, 9 * k))
            alive = np.isin(rows, self._rows)
            # Unless most of what is near belongs to files that are gone.
            if alive.sum() >= min(k, len(self._rows)):
                return scores[alive][:k], rows[alive][:k]
        return self._vectors.search(self._query, k, rows=self._only, exact=exact)

    def by_cosine(self, distinct: bool, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return cosine similarities and rows, the best first."""
        k = max(_CHOICE * self._k, _LEAST_CHOICE) if distinct else self._k
        return self._search(min(k, len(self._rows)), exact)

    def by_csls(self, references: Tensor, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return CSLS and rows, the best first, among the many of the best cosines."""
        k = max(_CHOICE * self._k, _LEAST_CHOICE)
        scores, rows = self._search(min(k, len(self._rows)), exact)
        order = np.argsort(rows)
        near = crowding(self._vectors.at(rows[order]), references, neighbors=_NEIGHBORS)
        scores = 2 * scores[order] - near.numpy()
        best = np.argsort(-scores, kind="stable")
        return scores[best], rows[order][best]

    def hits(self, scores: np.ndarray, rows: np.ndarray, distinct: bool) -> list[Hit]:
        """Return the entries of rows, at most k; equal contents are all listed unless distinct."""
        part, found = self._part, list[Hit]()
        kept: list[Tensor] = []
        for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
            if distinct:
                vector = self._vectors.at(np.array([row]))[0]
                if any(float(vector @ other) >= NEAR_DUPLICATE for other in kept):
                    continue
                kept.append(vector)
            low, high = np.searchsorted(part.rows, [row, row + 1])
            entries = [e for e in range(low, high) if self._chosen is None or self._chosen[e]]
            found += [self._hit(entry, score) for entry in (entries[:1] if distinct else entries)]
            if len(found) >= self._k:
                break
        return found[: self._k]

    def _hit(self, entry: int, score: float) -> Hit:
        part = self._part
        (values,) = part.files.slice(entry, 1).to_pylist()
        text = None
        if part.modality == "text":
            text = part.table.data["text"][int(values["row"])].as_py()
        path, mtime = os.fsdecode(values["path"]), values["mtime_ns"] / 1e9
        return Hit(path, part.modality, round(score, 6), mtime, values["line"], text)
