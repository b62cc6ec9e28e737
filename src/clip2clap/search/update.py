"""Building and updating of an index: only files that are new or have changed are encoded."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from pyarrow import compute

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import as_path
from clip2clap.core.output_folder import sole_run
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import Family, Modality, require_same_model
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.media.audio import load_audio, require_audible
from clip2clap.media.images import load_image
from clip2clap.search.files import FileState, find_roots, is_inside, scan_files, state_of
from clip2clap.search.nearest import renew_nearest
from clip2clap.search.store import (
    COLUMNS,
    MODALITIES,
    Entry,
    Settings,
    Store,
    entries_of,
    hash_file,
    hash_text,
)

DEFAULT_MODEL = "demo"

_BATCH_SIZES: dict[Modality, int] = {"image": 64, "audio": 16, "text": 64}
# Work of at most this time is lost by a kill.
_SECONDS_PER_SAVE = 30.0
# A table is rewritten once it has this many vectors, and this share, of files that are gone.
_DEAD_ROWS, _DEAD_SHARE = 1000, 0.25
_ROWS = 65_536
_compute: Any = compute
_ENCODERS: dict[Family, Any] = {"clip": ClipEncoder, "clap": ClapEncoder}


@dataclass
class IndexReport:
    """Outcome of a run of `update_index`."""

    folder: Path
    """Folder of the index."""

    files: int = 0
    """Files, and lines of text files, that can be found now."""

    added: int = 0
    """New files."""

    changed: int = 0
    """Files of changed content."""

    moved: int = 0
    """Files that were moved or renamed, recognized by their content."""

    removed: int = 0
    """Files that are gone."""

    encoded: int = 0
    """Files and lines that were encoded."""

    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by path of what could not be indexed; tried again by the next run."""


class _Item(NamedTuple):
    """File or line of a text file on its way: its entry, and inputs of the encoder if it is new."""

    entry: Entry
    inputs: Any = None
    text: str | None = None
    is_last: bool = True
    """False for all lines of a text file but the last."""


def update_index(
    inputs: Sequence[str | Path],
    folder: str | Path,
    *,
    forget: Sequence[str | Path] = (),
    clip: str | None = None,
    clap: str | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> IndexReport:
    """Index images, audio and texts, or bring an index up to date.

    Files of the inputs that are gone drop out, and moved ones are recognized by a hash of their
    content. Files of earlier inputs stay as they are. A run that was stopped continues where it
    was; a file that cannot be read costs one entry of the report.

    Args:
        inputs: Folders, searched at any depth for images, audio files and videos; such files by
            themselves; and text files, each line of which is a text. None brings all earlier
            inputs up to date.
        folder: Folder of the index.
        forget: Inputs of earlier runs to leave out from now on.
        clip: CLIP of the images and texts: preset, hub id or folder; by default the index's own,
            or the demo model.
        clap: CLAP of the audio and texts.
        device: Device of the encoders.
        batch_size: Items per batch; by default 64 images or texts, or 16 audio files.
        on_progress: Called with the numbers of files that are done and of all that have changed.

    Raises:
        UserError: If an input does not exist, the folder holds something else or is written to by
            another run, or there is nothing to index.
        SpaceMismatchError: If the index was made with another encoder.

    Examples:
        >>> from clip2clap.search import update_index
        >>> report = update_index(["photos", "recordings"], "library")
        >>> report.files, report.encoded
        (6, 6)
        >>> update_index([], "library").encoded
        0
    """
    roots = find_roots(inputs)
    path = as_path(folder)
    with sole_run(path):
        store = Store.open_or_create(path)
        store.remove_leftovers()
        _forget(store, [os.path.abspath(as_path(each)) for each in forget])
        _add_roots(store.settings, roots)
        if not store.settings.roots and not forget:
            raise UserError("Name the files and folders to index.", param="inputs")
        models: dict[Family, str | None] = {"clip": clip, "clap": clap}
        _check_models(store, models)
        store.write_settings()
        update = _Update(store, device, batch_size, on_progress)
        update.run(roots or store.settings.roots)
        return update.report


def _add_roots(settings: Settings, roots: Sequence[str]) -> None:
    """Add roots that are not inside another; those inside a new one are replaced by it."""
    for root in roots:
        if not any(is_inside(root, known) for known in settings.roots):
            settings.roots = [r for r in settings.roots if not is_inside(r, root)] + [root]


def _forget(store: Store, forgotten: Sequence[str]) -> None:
    """Drop roots, and the files in them."""
    roots = store.settings.roots
    for each in forgotten:
        if each not in roots:
            known = ", ".join(roots) or "none"
            raise UserError(f"{each} is not an input of the index: {known}.", param="forget")
    if forgotten:
        store.settings.roots = [root for root in roots if root not in forgotten]
        entries = entries_of(store.read_files())
        store.write_files(
            entry
            for entry in entries
            if not any(is_inside(entry.path, each) for each in forgotten)
            or any(is_inside(entry.path, root) for root in store.settings.roots)
        )


def _check_models(store: Store, named: dict[Family, str | None]) -> None:
    """Set the names of encoders; raise if one is not that of the vectors in the index."""
    spaces = store.spaces()
    for family, given in named.items():
        known = store.settings.models.get(family)
        name = given or known or DEFAULT_MODEL
        for column, space in spaces.items():
            if space.family == family and given is not None:
                got = read_space(name, family=family, modality=space.modality)
                require_same_model(space, got, what=f"{column} of {store.folder}")
        # A relative folder means another one from elsewhere.
        is_folder = as_path(name).is_dir()
        store.settings.models[family] = os.path.abspath(as_path(name)) if is_folder else name


class _Update:
    """One run over the files of some roots."""

    def __init__(
        self,
        store: Store,
        device: torch.device | str | None,
        batch_size: int | None,
        on_progress: Callable[[int, int], None] | None,
    ):
        self.store = store
        self.report = IndexReport(store.folder)
        self._device, self._batch_size = device, batch_size
        self._on_progress = on_progress or (lambda done, total: None)
        self._encoders: dict[Family, Any] = {}
        self._loading = threading.Lock()
        self._gone: list[tuple[str, str | None]] = []
        self._gone_ids: set[str | None] = set()
        self._taken: list[Entry] = []
        self._done = self._total = 0
        self._entries: dict[str, list[Entry]] = {}
        for entry in entries_of(store.read_files()):
            self._entries.setdefault(entry.path, []).append(entry)
        tables = {modality: store.open_table(modality) for modality in MODALITIES}
        self._known = {m: set() if t is None else set(t.ids) for m, t in tables.items()}
        self._saved = time.monotonic()

    def run(self, roots: Sequence[str]) -> None:
        """Index what has changed in some roots."""
        # A drive that is not there now keeps its entries.
        present = [root for root in roots if os.path.exists(root)]
        problems = {r: f"{r} is not there; its entries are kept." for r in {*roots} - {*present}}
        scan = scan_files(present, leave_out=os.path.abspath(self.store.folder))
        gone = [
            path
            for path in self._entries
            if path not in scan.files and any(is_inside(path, root) for root in present)
        ]
        self._gone = [(path, entry.id) for path in gone for entry in self._entries.pop(path)]
        self._gone_ids = {content for _, content in self._gone} - {None}
        pending = {p: s for p, s in scan.files.items() if not self._is_current(p, s)}
        self._total = len(pending)
        if self._gone:
            self._save()
        try:
            for modality in MODALITIES:
                chosen = [each for each in pending.items() if each[1].modality == modality]
                if chosen:
                    self._index(modality, chosen)
        finally:
            if self._gone or pending:
                self._save()
        self._count(pending, {**problems, **scan.problems})
        for modality in MODALITIES:
            if self._known[modality]:
                tidy(self.store, modality, self._ids(modality))

    def _ids(self, modality: Modality) -> set[str]:
        """Return the contents of a modality that files have now."""
        entries = (entry for each in self._entries.values() for entry in each)
        return {e.id for e in entries if e.modality == modality and e.id is not None}

    def _count(self, pending: Iterable[str], problems: dict[str, str]) -> None:
        report = self.report
        found = {entry.id for path in pending for entry in self._entries[path]}
        report.removed = len({path for path, content in self._gone if content not in found})
        entries = [entry for each in self._entries.values() for entry in each]
        report.files = sum(entry.id is not None for entry in entries)
        report.failures = problems
        report.failures |= {e.path: e.reason for p in pending for e in self._entries[p] if e.reason}

    def _save(self) -> None:
        """Replace the list of files; their vectors are on disk."""
        paths = sorted(self._entries)
        self.store.write_files(entry for path in paths for entry in self._entries[path])
        self._saved = time.monotonic()

    def _is_current(self, path: str, state: FileState) -> bool:
        entries = self._entries.get(path, [])
        return bool(entries) and all(
            (entry.modality, entry.size, entry.mtime_ns)
            == (state.modality, state.size, state.mtime_ns)
            and entry.id in self._known[state.modality]
            for entry in entries
        )

    def _index(self, modality: Modality, files: Sequence[tuple[str, FileState]]) -> None:
        """Index files of one modality."""
        size = self._batch_size or _BATCH_SIZES[modality]
        read = partial(self._read, modality)
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(min(torch.get_num_threads(), 8))
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            writer: TableWriter | None = None
            items = (
                (item for path, state in files for item in _lines(path, state))
                if modality == "text"
                else map_ahead(lambda file: read(*file), files, pool, ahead=2 * size)
            )
            for batch in batched(items, size):
                known = self._known[modality]
                new = {e.entry.id: e for e in batch if e.entry.id and e.entry.id not in known}
                if new:
                    writer = writer or stack.enter_context(self._open_writer(modality))
                    self._encode(modality, new, writer, size)
                for item in batch:
                    self._take_up(item)
                self._on_progress(self._done, self._total)
                if time.monotonic() - self._saved > _SECONDS_PER_SAVE:
                    if writer is not None:
                        writer.flush()
                    self._save()

    def _open_writer(self, modality: Modality) -> TableWriter:
        spaces = {
            column: self._encoder(family, modality).space(modality)
            for column, family in COLUMNS[modality].items()
        }
        folder = self.store.table_folder(modality)
        self.store.settings.tables[modality] = folder.name
        self.store.write_settings()
        return TableWriter(folder, spaces)

    def _encode(
        self, modality: Modality, new: dict[str, _Item], writer: TableWriter, size: int
    ) -> None:
        embeds, sources, items = {}, {}, list(new.values())
        if modality == "text":
            sources = {"text": [item.text for item in items]}
        for column, family in COLUMNS[modality].items():
            encoder = self._encoder(family, modality)
            inputs = [item.inputs for item in items]
            if modality == "text":
                inputs = encoder.preprocess("text", sources["text"])
            embeds[column] = encoder.encode_preprocessed(modality, inputs, batch_size=size)
        writer.append(list(new), sources, embeds)
        self._known[modality].update(new)
        self.report.encoded += len(new)

    def _take_up(self, item: _Item) -> None:
        """Replace the entries of a file once all of it is done."""
        self._taken.append(item.entry)
        if not item.is_last:
            return
        entries, path = self._taken, item.entry.path
        before, ids = self._entries.get(path), [entry.id for entry in entries]
        if ids != [None]:
            if before:
                self.report.changed += [entry.id for entry in before] != ids
            elif self._gone_ids.intersection(ids):
                self.report.moved += 1
            else:
                self.report.added += 1
        self._entries[path], self._taken = entries, []
        self._done += 1

    def _encoder(self, family: Family, modality: Modality) -> Any:
        with self._loading:
            if family not in self._encoders:
                name = self.store.settings.models[family]
                self._encoders[family] = _ENCODERS[family].from_pretrained(
                    name, device=self._device
                )
        encoder = self._encoders[family]
        if modality not in encoder.modalities:
            name = encoder.space(encoder.modalities[0]).model_id
            fix = f"Name a {family.upper()} that does."
            raise UserError(f"{name!r} embeds no {modality}. {fix}", param=family)
        return encoder

    def _read(self, modality: Modality, path: str, state: FileState) -> _Item:
        """Return a file with its hash, and its model inputs unless its content is known."""
        entry = Entry(path, None, state.size, state.mtime_ns, modality, None)
        value: Any = None
        try:
            with open(path, "rb") as file:
                content = hash_file(file)
                if content not in self._known[modality]:
                    file.seek(0)
                    value = _load(file, modality, path)
                if state_of(path, modality) != state:
                    raise UserError(f"{path} changed while it was read. Index it once more.")
        except (UserError, OSError) as error:
            return _Item(entry._replace(reason=_reason(path, error)))
        entry = entry._replace(id=content)
        if value is None:
            return _Item(entry)
        # Models are loaded once there is something for them.
        ((_, family),) = COLUMNS[modality].items()
        (inputs,) = self._encoder(family, modality).preprocess(modality, [value])
        return _Item(entry, inputs)


def _load(file: Any, modality: Modality, path: str) -> Any:
    """Load an image or audio that is not silent from an opened file.

    Raises:
        UserError: If it cannot be read, or is silent.
    """
    if modality == "image":
        return load_image(file, name=path)
    audio = load_audio(file, name=path)
    require_audible(audio[0], path)
    return audio


def _lines(path: str, state: FileState) -> Iterator[_Item]:
    """Yield the lines of a text file, or the reason why there are none."""
    entry = Entry(path, None, state.size, state.mtime_ns, "text", None)
    try:
        content = Path(path).read_bytes()
        if b"\0" in content:
            raise UserError(f"{path} is no text.")
        lines = content.decode("utf-8-sig", "replace").splitlines()
        texts = [(n, " ".join(line.split())) for n, line in enumerate(lines, 1) if line.strip()]
        if not texts:
            raise UserError(f"{path} is empty. Write one text per line.")
    except (UserError, OSError) as error:
        yield _Item(entry._replace(reason=_reason(path, error)))
        return
    for n, text in texts:
        yield _Item(
            entry._replace(line=n, id=hash_text(text)), text=text, is_last=n == texts[-1][0]
        )


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, UserError):
        return f"{path} can't be read: {error.strerror or one_line(error)}."
    return one_line(error, limit=None)


def tidy(store: Store, modality: Modality, live: set[str]) -> None:
    """Drop vectors that no file has any more, once there are many, and renew the fast search."""
    table = store.open_table(modality)
    if table is None:
        return
    dead = len(table) - len(live.intersection(table.ids))
    if dead > max(_DEAD_ROWS, _DEAD_SHARE * len(table)):
        old = table.folder
        number = int(old.name.rpartition("-")[2]) + 1
        new = old.with_name(f"{modality}-{number}")
        shutil.rmtree(new, ignore_errors=True)
        kept = pa.array(sorted(live), pa.string())
        with TableWriter(new, table.spaces) as writer:
            for start in range(0, len(table), _ROWS):
                rows = table.rows(start, min(start + _ROWS, len(table)))
                writer.append_table(rows.filter(_compute.is_in(rows["id"], kept)))
        store.settings.tables[modality] = new.name
        store.write_settings()
        shutil.rmtree(old, ignore_errors=True)
        table = EmbeddingTable.open(new)
    renew_nearest(table, store.folder, modality)
