"""Damaged and odd tables: each row has its content or a reason, or the file says why not."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import Row, check_row
from clip2clap.embeddings.datasets.registry import open_source
from clip2clap.embeddings.datasets.tables import ColumnNames
from clip2clap.embeddings.space import EmbeddingSpace, Modality
from clip2clap.embeddings.table.convert import ExportFormat, export_table, import_table
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

from .builders import VALUES, damaged, damages, few, works_or_says_why

SPACES = {
    f"{family}_text": EmbeddingSpace(family, f"a/{family}", "text", 4, False, family)
    for family in ("clip", "clap")
}
WANTED: list[frozenset[Modality]] = [
    frozenset({"image", "text"}),
    frozenset({"audio", "text"}),
    frozenset({"text"}),
    frozenset({"image", "audio"}),
]
CELLS = st.text(st.sampled_from("a\"',;\t|\r\n\0\\é\ud800\u2028 "), max_size=6)
LINES = st.lists(st.lists(CELLS, max_size=4), max_size=6)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def parquet(columns: dict[str, Any], metadata: dict[str, Any] | None = None) -> bytes:
    file, table = io.BytesIO(), pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, file)
    return file.getvalue()


def tar(members: dict[str, bytes], mode: Any = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def files() -> dict[str, bytes]:
    """Return a small file of each kind by its name."""
    lines = [["id", "caption", "image", "audio"], ["1", 'a "dog"', "a.jpg", "a.wav"]]
    text = io.StringIO()
    csv.writer(text).writerows([*lines, ["2", "rain,\nthunder", "http://a.b/c.jpg", "x/b.flac"]])
    records = [{"caption": ["a dog", "dogs"], "image": {"bytes": None, "path": "a.jpg"}}] * 3
    json_lines = "".join(f"{json.dumps(record)}\n" for record in records)
    classes = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["dog", "cat"]}}}}
    image = [{"bytes": jpeg(), "path": None}] * 2
    wit = ["language", "image_url", "mime_type", "page_url"]
    wit += [f"caption_{name}_description" for name in ("reference", "attribution", "alt_text")]
    shard = {"0.jpg": jpeg(), "0.json": b'{"caption": "a dog", "url": "http://a"}', "0.txt": b"a"}
    return {
        "table.csv": text.getvalue().encode(),
        "utf16.csv": text.getvalue().encode("utf-16"),
        "table.tsv": "\n".join(map("\t".join, lines)).encode(),
        "table.csv.gz": gzip.compress(text.getvalue().encode()),
        "lines.jsonl": json_lines.encode(),
        "list.json": json.dumps(records).encode(),
        "classes.parquet": parquet({"label": [0, 1], "caption": ["a", "b"]}, classes),
        "images.parquet": parquet({"image": image, "text": ["a dog", "rain"]}),
        "train.csv": b"audiocap_id,youtube_id,start_time,caption\n1,abc,30,a dog\n2,d,x,rain\n",
        "wit.tsv.gz": gzip.compress("\t".join(wit).encode() + b"\nen\thttp://a\timage/png\tu\ta\n"),
        "cc.tsv": b"a dog\thttp://a.b/c.jpg\nrain\thttp://a.b/d.jpg\n",
        "shard.tar": tar(shard | {"b.c.jpg": jpeg(), "b.c.txt": b"rain", "b.c.flac": b""}),
        "shard.tgz": tar(shard, "w:gz"),
        "metadata.jsonl": b'{"file_name": "a.jpg", "text": "a dog"}\n',
    }


def arrow_arrays() -> list[pa.Array]:
    """Return columns of three rows of many types, which are no captions."""
    plain: list[Any] = [
        *(["a", "", None], [b"a", b"\xff", None], [1, None, -(2**62)], [0.5, float("nan"), None]),
        *([True, None, False], [None] * 3, [["a"], [], None], [{"a": 1}, None, {"a": None}]),
        *([{"bytes": b"a", "path": None}] * 3, [{"path": 3}] * 3, [[[1]], [None], None]),
        [[{"bytes": jpeg()}], [], None],
    ]
    arrays = [pa.array(values) for values in plain]
    arrays += [pa.array(["a", "b", None]).dictionary_encode(), pa.array([1, 2, 3], pa.float16())]
    arrays += [pa.array([0, 1, 2**40], kind) for kind in (pa.timestamp("ns"), pa.duration("s"))]
    arrays += [pa.array([1, 2, 3]).cast(pa.decimal128(38, 9)), pa.array([0, 1, 2], pa.date64())]
    arrays += [pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8()))]
    return [*arrays, pa.array([2**63] * 3, pa.uint64()), pa.array([2**55] * 3, pa.timestamp("ms"))]


FILES, ARROW = files(), arrow_arrays()
NAMES = sorted(FILES)


def rows_end_well(path: Path, wanted: frozenset[Modality], keep: tuple[str, ...] = ()) -> None:
    """Read all rows and store them in a table, with vectors in place of the encoders'."""
    folder = path.parent / "embeds"

    def read() -> None:
        source = open_source([path], wanted=wanted, columns=ColumnNames(keep=keep))
        rows = list(itertools.islice(source, 1000))
        with TableWriter(folder, SPACES) as writer:
            for row in rows:
                if row.id not in writer:
                    store(row, wanted, writer)

    works_or_says_why(read)
    shutil.rmtree(folder, ignore_errors=True)


def store(row: Row, wanted: frozenset[Modality], writer: TableWriter) -> None:
    reason = check_row(row, sorted(wanted))
    if reason is not None:
        writer.fail(row.id, reason)
        return
    assert isinstance(row.content.get("text", ""), str)
    assert all(row.content[modality] for modality in wanted)
    columns = {name: [value] for name, value in row.columns.items()}
    writer.append([row.id], columns, {name: torch.ones(1, 4) for name in SPACES})


@pytest.mark.parametrize("name", NAMES)
def test_damaged_tables_give_rows_or_say_why(name: str, tmp_path: Path):
    for content, wanted in zip(damages(FILES[name], 24), itertools.cycle(WANTED), strict=False):
        (tmp_path / name).write_bytes(content)
        rows_end_well(tmp_path / name, wanted)


@few(40)
@given(LINES, st.sampled_from(",;\t|"), st.sampled_from(["a.csv", "a.tsv"]), st.booleans())
def test_any_cells_give_rows_or_say_why(tmp_path, lines, mark, name, is_quoted):
    text = io.StringIO()
    header = ["id", "caption", "image", "more"]
    if is_quoted:
        csv.writer(text, delimiter=mark).writerows([header, *lines])
    else:
        text.write("\n".join(map(mark.join, [header, *lines])))
    (tmp_path / name).write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    rows_end_well(tmp_path / name, frozenset({"image", "text"}), ("more",))


@few(40)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), max_size=5), st.booleans())
def test_any_json_gives_rows_or_says_why(tmp_path, records, is_list):
    records = [dict(zip(("id", "caption", "image", "more"), r, strict=True)) for r in records]
    lines = json.dumps(records) if is_list else "\n".join(map(json.dumps, records))
    (tmp_path / "a.jsonl").write_text(lines)
    rows_end_well(tmp_path / "a.jsonl", frozenset({"image", "text"}), ("more",))


@few(40)
@given(st.lists(st.tuples(st.sampled_from(ARROW), st.sampled_from(ARROW)), max_size=3))
def test_columns_of_any_type_give_rows_or_say_why(tmp_path, columns):
    names = ("caption", "image"), ("id", "more"), ("audio", "status")
    for pair, arrays in zip(names, columns, strict=False):
        table = dict(zip(pair, arrays, strict=True)) | {"caption": columns[0][0]}
        pq.write_table(pa.table(table), tmp_path / "a.parquet")
        rows_end_well(tmp_path / "a.parquet", frozenset({"text"}), pair)
        rows_end_well(tmp_path / "a.parquet", frozenset({"image", "text"}))


def each_damaged_file_works_or_says_why(
    folder: Path, read: Callable[[], object], error_class: type[Exception] = UserError
) -> None:
    """Damage one of a folder's files at a time, and read it."""
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*.*[!k]"))}

    @few(40)
    @given(st.sampled_from(sorted(whole)), st.data())
    def check(path: Path, data: st.DataObject) -> None:
        for name, content in whole.items():
            name.write_bytes(data.draw(damaged(content)) if name == path else content)
        works_or_says_why(read, error_class)

    check()


def write_table(folder: Path, *, has_checksums: bool) -> EmbeddingTable:
    with TableWriter(folder, SPACES, settings={"a": 1}, rows_per_shard=3) as writer:
        for start in (0, 3):
            ids = [f"row {row}" for row in range(start, start + 3)]
            embeds = {name: torch.rand(3, 4) for name in SPACES}
            writer.append(ids, {"caption": ids}, embeds, failures={f"bad {start}": "no caption"})
    state = json.loads((folder / "state.json").read_text())
    if not has_checksums:  # as older versions wrote it
        del state["clip2clap"]["checksums"]
    (folder / "state.json").write_text(json.dumps(state))
    return EmbeddingTable.open(folder)


def read_all(folder: Path) -> None:
    table = EmbeddingTable.open(folder)
    table.verify()
    assert all(isinstance(row_id, str) for row_id in table.ids)
    assert all(isinstance(reason, str) for reason in table.failures().values())
    for name in table.sources:
        table.source(name)
    for name, space in table.spaces.items():
        assert table.tensor(name).sum().shape == ()
        assert sum(len(part) for (part,) in table.chunks(name, rows=4)) == len(table)
        assert table.read(name, torch.arange(len(table))).shape == (len(table), space.dim)


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_damaged_table_of_embeddings_is_read_or_says_why(has_checksums: bool, tmp_path: Path):
    write_table(tmp_path, has_checksums=has_checksums)
    each_damaged_file_works_or_says_why(tmp_path, lambda: read_all(tmp_path), TableError)


@pytest.mark.parametrize("format", get_args(ExportFormat))
def test_a_damaged_export_is_imported_or_says_why(format: ExportFormat, tmp_path: Path):
    table = write_table(tmp_path / "table", has_checksums=True)
    folder, imported = tmp_path / "export" / "a", tmp_path / "imported"
    export_table(table, folder, format)

    def read() -> None:
        shutil.rmtree(imported, ignore_errors=True)
        import_table(folder, imported)

    each_damaged_file_works_or_says_why(folder.parent, read)


PARTS = st.sampled_from(["a", "b", "train", "data", ".hidden", "é" * 60, "x\udce9", "a\nb", "[*]"])
CONTENTS = st.sampled_from([*FILES.values(), jpeg(), b"", b"\0" * 20]) | st.binary(max_size=20)
STEMS = PARTS | st.sampled_from(["metadata", "state", "dataset_dict", "dataset_info", "failures"])
SUFFIXES = st.sampled_from(
    [".csv", ".json", ".jsonl", ".parquet", ".tar", ".jpg", ".wav", ".txt", "", ".tsv.gz", ".arrow"]
)
TREES = st.lists(st.tuples(PARTS | st.just("."), STEMS, SUFFIXES, CONTENTS), max_size=5)


@few(60)
@given(TREES, st.sampled_from(WANTED))
def test_any_folder_gives_rows_or_says_why(tmp_path, tree, wanted):
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    for inside, stem, suffix, content in tree:
        with contextlib.suppress(OSError):  # a folder of the name of a file
            (folder / inside).mkdir(parents=True, exist_ok=True)
            (folder / inside / f"{stem}{suffix}").write_bytes(content)
    if tree and tree[0][1] == "data":
        with contextlib.suppress(OSError):
            (folder / "link").symlink_to(folder)
    rows_end_well(folder, wanted)
