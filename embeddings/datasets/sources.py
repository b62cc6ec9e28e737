"""The data sets that embeddings are made from, each as published, and any of one's own."""

import contextlib
import csv
import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.datasets.rows import Row, Source, Url, content_of
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as sounds
from clip2clap.media import images

CaptionField = Literal["auto", "reference", "attribution", "alt"]

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_AUDIOCAPS = ("audiocap_id", "youtube_id", "start_time", "caption")
# In the order in which "auto" looks for a caption.
_WIT_CAPTIONS: dict[CaptionField, str] = {
    "reference": "caption_reference_description",
    "attribution": "caption_attribution_description",
    "alt": "caption_alt_text_description",
}
_WIT_COLUMNS = ("language", "image_url", "mime_type", *_WIT_CAPTIONS.values())
_READABLE_TYPES = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/tiff"}
# Some cells of WIT are whole sections of an encyclopedia.
_LONGEST_CELL = 2**24
_TEXT_SUFFIXES = frozenset({".txt"})


@dataclass(frozen=True)
class AudioCaps(Source):
    """AudioCaps (Kim et al., 2019): captions of ten-second clips, with the clips if they are there.

    A clip's files are named by its youtube id and start time, as `r1nicOVtvkQ_130.wav`; of frames
    there may be several in a folder of that name, of which the middle one is taken.
    """

    captions: Path
    """A CSV as published: audiocap_id, youtube_id, start_time, caption."""

    audio: Path | None = None
    """A folder with the clips' sounds."""

    frames: Path | None = None
    """A folder with the clips' frames."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """Captions, and what there are folders of."""
        found: set[Modality] = {"text"}
        found |= {"audio"} if self.audio else set()
        found |= {"image"} if self.frames else set()
        return frozenset(found)

    @property
    def settings(self) -> dict[str, Any]:
        """The file's name."""
        return {"source": "audiocaps", "files": [self.captions.name]}

    def __iter__(self) -> Iterator[Row]:
        """Read the file's rows."""
        sounds_ = _by_stem(self.audio, sounds.SUFFIXES) if self.audio else {}
        frames = _by_stem(self.frames, images.SUFFIXES) if self.frames else {}
        split = _SPLITS.get(self.captions.stem)
        for values in _read_csv(self.captions, ",", _AUDIOCAPS, "AudioCaps"):
            clip = f"{values['youtube_id']}_{values['start_time']}"
            columns = {
                "caption": values["caption"],
                "youtube_id": values["youtube_id"],
                "start_time": values["start_time"],
                # A clip of the validation and test files has five captions: one thing to split by.
                "item": clip,
                **({"split": split} if split else {}),
            }
            content: dict[Modality, Any] = {"text": values["caption"]}
            problem = None
            for folder, found, modality in (
                (self.audio, sounds_, "audio"),
                (self.frames, frames, "image"),
            ):
                if folder is None:
                    continue
                files = found.get(clip)
                if files is None:
                    problem = f"no file named {clip} in {folder}"
                else:
                    content[cast(Modality, modality)] = files[len(files) // 2]
            yield Row(values["audiocap_id"], columns, content, problem)


@dataclass(frozen=True)
class ConceptualCaptions(Source):
    """Conceptual Captions (Sharma et al., 2018): caption TAB address, without a header."""

    files: tuple[Path, ...]
    """The training or validation file as published."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """Pictures, to be downloaded, and captions."""
        return frozenset({"image", "text"})

    @property
    def settings(self) -> dict[str, Any]:
        """The files' names."""
        return {"source": "conceptual-captions", "files": [file.name for file in self.files]}

    def __iter__(self) -> Iterator[Row]:
        """Read the files' rows; one is named by its file and line."""
        splits = _splits(self.files)
        for path in self.files:
            stem = _stem(path)
            with _open_text(path, newline="\n") as file:
                for number, line in enumerate(file):
                    caption, *rest = line.rstrip("\r\n").split("\t")
                    url = rest[0].strip() if len(rest) == 1 else ""
                    columns = {"caption": caption, "url": url, **splits.get(path, {})}
                    problem = None
                    if len(rest) != 1:
                        problem = f"expected a caption, a tab and an address, got {len(rest)} tabs"
                    content: dict[Modality, Any] = {"text": caption, "image": Url(url)}
                    yield Row(f"{stem}:{number}", columns, content, problem)


@dataclass(frozen=True)
class Wit(Source):
    """WIT (Srinivasan et al., 2021): Wikipedia's pictures with their captions, in 108 languages.

    The files stay packed. Of a row's captions the first that is there is taken in the order
    reference, attribution, alt text.
    """

    files: tuple[Path, ...]
    """Files as published: `wit_v1.train.all-00000-of-00010.tsv.gz` and the like."""

    language: str = "en"
    """The rows to take, by Wikipedia's code: `en` is English, `uk` Ukrainian."""

    caption_field: CaptionField = "auto"
    """Take this caption only."""

    def __post_init__(self) -> None:
        if self.caption_field not in get_args(CaptionField):
            raise UserError(
                f"Expected caption_field as one of {', '.join(get_args(CaptionField))}, got "
                f"{self.caption_field!r}."
            )

    @property
    def modalities(self) -> frozenset[Modality]:
        """Pictures, to be downloaded, and captions."""
        return frozenset({"image", "text"})

    @property
    def settings(self) -> dict[str, Any]:
        """The files' names, the language and the caption."""
        return {
            "source": "wit",
            "files": [file.name for file in self.files],
            "language": self.language,
            "caption_field": self.caption_field,
        }

    def __iter__(self) -> Iterator[Row]:
        """Read the rows of the language; one is named by its file and its place in it."""
        fields: list[CaptionField] = [self.caption_field]
        if self.caption_field == "auto":
            fields = list(_WIT_CAPTIONS)
        splits = _splits(self.files)
        for path in self.files:
            stem = _stem(path)
            for number, values in enumerate(_read_csv(path, "\t", _WIT_COLUMNS, "WIT")):
                if values["language"] != self.language:
                    continue
                found = ((f, values[_WIT_CAPTIONS[f]].strip()) for f in fields)
                field_, caption = next(((f, text) for f, text in found if text), (None, ""))
                url, type_ = values["image_url"], values["mime_type"]
                if not type_ and url.lower().endswith(".svg"):
                    type_ = "image/svg+xml"
                problem = None
                if type_ and type_ not in _READABLE_TYPES:
                    problem = f"{type_} can't be read, only JPEG, PNG, WebP, GIF and TIFF"
                columns = {
                    "caption": caption,
                    "caption_field": field_,
                    "url": url,
                    "page_url": values.get("page_url"),
                    **splits.get(path, {}),
                }
                content: dict[Modality, Any] = {"text": caption, "image": Url(url)}
                yield Row(f"{stem}:{number}", columns, content, problem)


@dataclass(frozen=True)
class Folder(Source):
    """A folder of pictures, sounds and captions; files of one stem are one row.

    `dog.jpg`, `dog.wav` and `dog.txt` belong together. Rows are the pictures where pictures are
    wanted, otherwise the sounds, in the order of their names, folder by folder.
    """

    folder: Path
    wanted: frozenset[Modality]
    """What a row must have; a picture or a sound is among them."""

    def __post_init__(self) -> None:
        if not self.wanted & {"image", "audio"}:
            raise UserError(
                f"{self.folder} is a folder: captions alone are taken from a CSV, TSV or Parquet "
                "file."
            )

    @property
    def modalities(self) -> frozenset[Modality]:
        """What is wanted of it."""
        return self.wanted

    @property
    def settings(self) -> dict[str, Any]:
        """The folder's name."""
        return {"source": "folder", "files": [self.folder.resolve().name]}

    def __iter__(self) -> Iterator[Row]:
        """Walk the folder, one of its folders in memory at a time."""
        suffixes = {"image": images.SUFFIXES, "audio": sounds.SUFFIXES, "text": _TEXT_SUFFIXES}
        first: Modality = "image" if "image" in self.wanted else "audio"
        others = sorted(self.wanted - {first})
        for files in _walk(self.folder):
            beside: dict[str, dict[str, Path]] = {}
            for path in files:
                for modality in others:
                    if path.suffix.lower() in suffixes[modality]:
                        beside.setdefault(path.stem, {}).setdefault(modality, path)
            for path in files:
                if path.suffix.lower() in suffixes[first]:
                    yield self._row(path, first, others, beside.get(path.stem, {}))

    def _row(
        self, path: Path, first: Modality, others: Sequence[Modality], beside: Mapping[str, Path]
    ) -> Row:
        name = path.relative_to(self.folder).as_posix()
        columns: dict[str, Any] = {"file": name}
        content: dict[Modality, Any] = {first: path}
        problem = None
        for modality in others:
            file = beside.get(modality)
            if file is None:
                what = "caption" if modality == "text" else "sound"
                problem = f"no {what} of that name beside it"
            elif modality == "text":
                try:
                    content["text"] = file.read_text("utf-8", errors="surrogateescape").strip()
                except OSError as error:
                    problem = f"{file.name} can't be read: {error.strerror or error}"
            else:
                content[modality] = file
            if modality == "text":
                columns["caption"] = content.get("text")
            else:
                columns[f"{modality}_file"] = file and file.relative_to(self.folder).as_posix()
        return Row(name, columns, content, problem)


@dataclass(frozen=True)
class Fields:
    """Which columns of a table of one's own hold what; found by their usual names if not given."""

    id: str | None = None
    caption: str | None = None
    image: str | None = None
    audio: str | None = None
    keep: tuple[str, ...] = ()
    """Further columns to keep beside the embeddings."""

    def chosen(
        self, columns: Sequence[str], wanted: frozenset[Modality], where: object
    ) -> dict[str, str]:
        """Find the columns that hold what is wanted, by `id` and modality.

        Raises:
            UserError: If one of them can't be found.
        """
        found: dict[str, str] = {}
        for what, given, option in (
            ("id", self.id, "--id-column"),
            ("text", self.caption, "--caption-column"),
            ("image", self.image, "--image-column"),
            ("audio", self.audio, "--audio-column"),
        ):
            if what != "id" and what not in wanted:
                continue
            names = [given] if given else _USUAL_NAMES[what]
            name = next((name for name in names if name in columns), None)
            if name is None and (given or what != "id"):
                raise UserError(
                    f"{where} has the columns {', '.join(columns)}, not {' or '.join(names)}. Name "
                    f"the right one with {option}."
                )
            if name is not None:
                found[what] = name
        missing = [name for name in self.keep if name not in columns]
        if missing:
            raise UserError(f"{where} has no column {', '.join(missing)} to keep.")
        return found


_USUAL_NAMES = {
    "id": ["id", "key"],
    "text": ["caption", "text", "TEXT"],
    "image": ["image", "image_path", "file", "path", "url", "image_url", "URL", "jpg"],
    "audio": ["audio", "audio_path", "sound", "wav", "file", "path"],
}


class _Records(Source):
    """A source of records with named cells."""

    fields: Fields
    wanted: frozenset[Modality]

    @property
    def modalities(self) -> frozenset[Modality]:
        """What is wanted of it."""
        return self.wanted

    def _settings(self, kind: str, files: Sequence[str]) -> dict[str, Any]:
        fields = {name: value for name, value in vars(self.fields).items() if value}
        return {"source": kind, "files": list(files), "fields": fields}

    def _rows(
        self,
        records: Iterator[Mapping[str, Any]],
        columns: Sequence[str],
        *,
        where: Path | str,
        base: Path,
    ) -> Iterator[Row]:
        chosen = self.fields.chosen(columns, self.wanted, where)
        stem = _stem(Path(where))
        for number, record in enumerate(records):
            named = record.get(chosen["id"]) if "id" in chosen else None
            row_id = f"{stem}:{number}" if named in (None, "") else str(named)
            content: dict[Modality, Any] = {}
            kept: dict[str, Any] = {}
            for modality in sorted(self.wanted):
                value = record.get(chosen[modality])
                if modality == "text":
                    content["text"] = None if value is None else str(value)
                    kept["caption"] = content["text"]
                    continue
                content[modality] = content_of(value, base)
                name = value.get("path") if isinstance(value, Mapping) else value
                file = "audio_file" if modality == "audio" and "image" in self.wanted else "file"
                # A picture that came as bytes has no name but its row's.
                kept[file] = name if isinstance(name, str) else row_id
            kept |= {name: record.get(name) for name in self.fields.keep}
            yield Row(row_id, kept, content)


@dataclass(frozen=True)
class TableFile(_Records):
    """A CSV, TSV or Parquet file; paths in it start from its own folder."""

    file: Path
    wanted: frozenset[Modality]
    fields: Fields = field(default_factory=Fields)

    @property
    def settings(self) -> dict[str, Any]:
        """The file's name and the columns taken."""
        return self._settings("table", [self.file.name])

    def __iter__(self) -> Iterator[Row]:
        """Read the file's rows."""
        columns, records = _read_table(self.file)
        return self._rows(records, columns, where=self.file, base=self.file.parent)


@dataclass(frozen=True)
class HubDataset(_Records):
    """A data set of the `datasets` library: an id on the hub, streamed, or a saved folder."""

    name: str
    wanted: frozenset[Modality]
    fields: Fields = field(default_factory=Fields)
    split: str = "train"

    @property
    def settings(self) -> dict[str, Any]:
        """Its name, the split and the columns taken."""
        name = Path(self.name).resolve().name if Path(self.name).is_dir() else self.name
        return {**self._settings("datasets", [name]), "split": self.split}

    def __iter__(self) -> Iterator[Row]:
        """Read the data set's rows; files in it stay as they are until they are needed."""
        import datasets
        from datasets.exceptions import DatasetsError

        try:
            if Path(self.name).is_dir():
                loaded: Any = datasets.load_from_disk(self.name)
                if isinstance(loaded, datasets.DatasetDict):
                    loaded = loaded[self.split]
            else:
                loaded = datasets.load_dataset(self.name, split=self.split, streaming=True)
            features = loaded.features or {}
            for name, feature in features.items():
                if isinstance(feature, datasets.Image | datasets.Audio):
                    loaded = loaded.cast_column(name, type(feature)(decode=False))
        except KeyError as error:
            raise UserError(f"{self.name} has no split {self.split!r}. Give --split.") from error
        except (OSError, ValueError, DatasetsError) as error:
            reason = one_line(error, limit=200)
            raise UserError(
                f"The data set {self.name} can't be loaded ({reason}). Check its name and the "
                "network, or give a folder that it was saved to."
            ) from error
        columns = list(loaded.column_names or features)

        def records() -> Iterator[Mapping[str, Any]]:
            try:
                yield from loaded
            except (OSError, ValueError, DatasetsError) as error:
                reason = one_line(error, limit=200)
                raise UserError(
                    f"The data set {self.name} can't be read on ({reason}). What was embedded of "
                    "it is safe: start again."
                ) from error

        return self._rows(records(), columns, where=self.name, base=Path(self.name))


@dataclass(frozen=True)
class WebDataset(Source):
    """Tar shards as `img2dataset` writes them: files of one name are one row.

    A caption is the `txt` file, or what the `json` file has under "caption".
    """

    files: tuple[Path, ...]
    wanted: frozenset[Modality]

    @property
    def modalities(self) -> frozenset[Modality]:
        """What is wanted of it."""
        return self.wanted

    @property
    def settings(self) -> dict[str, Any]:
        """The shards' names."""
        return {"source": "webdataset", "files": [file.name for file in self.files]}

    def __iter__(self) -> Iterator[Row]:
        """Read shard after shard, one row in memory at a time."""
        for path in self.files:
            try:
                with tarfile.open(path, "r|*") as tar:
                    for key, members in _samples(tar):
                        yield self._row(f"{_stem(path)}/{key}", members)
            except (tarfile.TarError, OSError, EOFError) as error:
                reason = one_line(error)
                raise UserError(
                    f"{path} can't be read as a tar file ({reason}). Fetch it again; what was "
                    "embedded of it is safe."
                ) from error

    def _row(self, row_id: str, members: Mapping[str, bytes]) -> Row:
        content: dict[Modality, Any] = {}
        columns: dict[str, Any] = {}
        notes: dict[str, Any] = {}
        if "json" in members:
            try:
                notes = json.loads(members["json"])
            except ValueError:
                return Row(row_id, self._columns(row_id, None, {}), {}, "its json is damaged")
        for modality, suffixes in (("image", images.SUFFIXES), ("audio", sounds.SUFFIXES)):
            files = (members[s[1:]] for s in sorted(suffixes) if s[1:] in members)
            content[cast(Modality, modality)] = next(files, None)
        caption = notes.get("caption")
        if "txt" in members:
            caption = members["txt"].decode("utf-8", errors="surrogateescape").strip()
        content["text"] = caption
        columns = self._columns(row_id, caption, notes)
        return Row(row_id, columns, {m: v for m, v in content.items() if m in self.wanted})

    def _columns(
        self, row_id: str, caption: str | None, notes: Mapping[str, Any]
    ) -> dict[str, Any]:
        captioned = {"caption": caption} if "text" in self.wanted else {}
        return {**captioned, "file": row_id, "url": notes.get("url")}


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Group the members that follow one another under one name; give their bytes by suffix."""
    key: str | None = None
    members: dict[str, bytes] = {}
    for member in tar:
        folder, name = os.path.split(member.name)
        stem, dot, suffix = name.partition(".")
        if not member.isfile() or not stem or not dot:
            continue
        if (this := os.path.join(folder, stem)) != key:
            if key is not None:
                yield key, members
            key, members = this, {}
        file = tar.extractfile(member)
        assert file is not None
        members[suffix.lower()] = file.read()
    if key is not None:
        yield key, members


def _stem(path: Path) -> str:
    """Give a file's name without what tells its format."""
    name = path.name.removesuffix(".gz")
    return name if path.is_dir() else Path(name).stem


def _splits(files: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """Tell the splits of published files from their names; of none if one of them says nothing.

    A split is a column of the table, which every row has or none.
    """
    found: dict[Path, dict[str, str]] = {}
    for path in files:
        names = [split for split in ("train", "val", "test") if split in path.name.lower()]
        if len(names) != 1:
            return {}
        found[path] = {"split": names[0]}
    return found


def _walk(folder: Path) -> Iterator[list[Path]]:
    """Give the files of a folder, then of the folders in it, sorted by name."""
    inside = sorted(folder.iterdir(), key=lambda path: path.name)
    yield [path for path in inside if path.is_file()]
    for path in inside:
        if path.is_dir():
            yield from _walk(path)


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    """Find a clip's files: those named by it, and those in folders named by it."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    found: dict[str, list[Path]] = {}
    for files in _walk(folder):
        for path in files:
            if path.suffix.lower() in suffixes:
                for name in {path.stem, path.parent.name}:
                    found.setdefault(name, []).append(path)
    return found


def _open_text(path: Path, *, newline: str) -> IO[str]:
    """Open a text file, packed or not; bytes that are no UTF-8 stay as they are."""
    try:
        file = gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    return io.TextIOWrapper(
        cast(IO[bytes], file), encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )


def _read_csv(
    path: Path, delimiter: str, expected: Sequence[str], kind: str
) -> Iterator[dict[str, str]]:
    """Read the records of a published file.

    Raises:
        UserError: If it lacks one of the expected columns, or ends in the middle.
    """
    columns, records = _csv_records(path, delimiter)
    missing = [name for name in expected if name not in columns]
    if missing:
        raise UserError(
            f"{path} is no {kind} file: expected the columns {', '.join(expected)}; "
            f"{', '.join(missing)} missing."
        )
    for record in records:
        yield {name: value or "" for name, value in record.items()}


def _csv_records(path: Path, delimiter: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    csv.field_size_limit(_LONGEST_CELL)
    file = _open_text(path, newline="")
    reader = csv.DictReader(file, delimiter=delimiter, restkey="", restval="")

    def records() -> Iterator[dict[str, str]]:
        with file, _readable(path):
            for record in reader:
                record.pop("", None)
                yield record

    with _readable(path):
        return list(reader.fieldnames or ()), records()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line why a file can't be read to its end."""
    try:
        yield
    except (OSError, EOFError, csv.Error, pa.ArrowInvalid) as error:
        reason = one_line(error)
        raise UserError(
            f"{path} can't be read ({reason}). Fetch it again; what was embedded of it is safe."
        ) from error


def _read_table(path: Path) -> tuple[list[str], Iterator[Mapping[str, Any]]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        with _readable(path):
            file = pq.ParquetFile(path)

        def records() -> Iterator[Mapping[str, Any]]:
            with _readable(path):
                for batch in file.iter_batches(batch_size=256):
                    yield from batch.to_pylist()

        return list(file.schema_arrow.names), records()
    return _csv_records(path, "\t" if name.endswith(".tsv") else ",")


def table_columns(path: Path) -> list[str]:
    """Give the names in a CSV's, TSV's or Parquet file's header.

    Raises:
        UserError: If it can't be read.
    """
    return _read_table(path)[0]
