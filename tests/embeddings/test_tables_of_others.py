"""Tables, tars and folders as other tools write them."""

import base64
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import Row, Url, check_row
from clip2clap.embeddings.datasets.registry import open_source
from clip2clap.embeddings.datasets.tables import ColumnNames
from clip2clap.embeddings.space import Modality

from .sources import write_audiocaps, write_shard

TEXT: frozenset[Modality] = frozenset({"text"})
IMAGE: frozenset[Modality] = frozenset({"image", "text"})
AUDIO: frozenset[Modality] = frozenset({"audio", "text"})


def rows_of(*locations: Path | str, wanted: frozenset[Modality] = TEXT, **options: Any):
    return list(open_source(locations, wanted=wanted, **options))


def captions(rows: list[Row]) -> list[str | None]:
    """Captions of the rows, and the reasons of those that can't be embedded."""
    return [check_row(row, ["text"]) or row.content["text"] for row in rows]


# Captions


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([["a dog", "the dog"], ["", "a cat"], [], None], ["a dog", "a cat"] + ["no caption"] * 2),
        ([[1, 2]], ["expected captions as text, got a list of int"]),
        ([{"raw": "a dog"}], ["expected a caption as text, got a dict"]),
        ([1.5, float("nan")], ["1.5", "no caption"]),
        ([True], ["expected a caption as text, got a bool"]),
        ([b"a dog", b"caf\xe9"], ["a dog", "its caption is not valid UTF-8"]),
        (["nan", " None", "[]", "N/A", "NaT", r"\N"], ["no caption"] * 6),
        ([["nan", "a dog"], ["NA"]], ["a dog", "no caption"]),
        (["\u200b", "\u00a0 \ufeff"], ["empty caption"] * 2),
        ([float("inf"), -float("inf")], ["no caption"] * 2),
        (["('a dog', 'dogs')", "('a dog',)", "(a dog)"], ["a dog", "a dog", "(a dog)"]),
        (["array(['a dog',\n 'dogs'], dtype=object)", "b'a dog'", "b'a"], ["a dog"] * 2 + ["b'a"]),
        (["{'a dog', 'dogs'}"], ["expected a caption as text, got a set"]),
        (["[a dog barks]", "{a dog barks}"], ["[a dog barks]", "{a dog barks}"]),
        (["['a dog' 'the dog']", "['it is' \"a dog's\"]"], ["a dog", "it is"]),
        (["{'en': 'a dog'}", '{"en": 1}'], ["expected a caption as text, got a dict"] * 2),
        (["[{'raw': 'a dog'}]"], ["expected captions as text, got a list of dict"]),
        ([b"\xef\xbb\xbfa dog"], ["a dog"]),
        (["['a dog', \"it's\"]", '["a cat"]'], ["a dog", "a cat"]),
        (["[1, 2]"], ["expected captions as text, got a list of int"]),
        (["['a dog', None]", '["a", null]', "['b', nan]", "['c' None\n 'd']"], ["a dog", *"abc"]),
        (["('a', None)", "[1, 'a']", "['a', <NA>, ...]", "[np.str_('a b')]"], [*"aaa", "a b"]),
        (["[None]", "[nan]", "[NaN, null]", "[' ']"], ["no caption"] * 4),
        (["['a  dog' \"it's  x\"]", "['a, b' 'c']"], ["a  dog", "a, b"]),
        (["[['a dog']]", "[['a']\n ['b']]"], ["expected captions as text, got a list of list"] * 2),
        (["[b'a']"], ["expected captions as text, got a list of bytes"]),
        (["[music] [x]", "[2 dogs]", "(1980)", "[a 'dog' barks]"], None),
        ([[None, None], [None, "a"]], ["no caption", "a"]),
    ],
)
def test_captions_that_are_no_text_are_reported_or_read(tmp_path, values, expected):
    pq.write_table(pa.table({"caption": values}), tmp_path / "a.parquet")
    assert captions(rows_of(tmp_path / "a.parquet")) == (expected or values)


def test_an_empty_table_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match=r"a\.csv is empty"):
        rows_of(tmp_path / "a.csv")


def test_class_labels_are_their_names(tmp_path):
    features = datasets.Features({"text": datasets.ClassLabel(names=["dog", "rain"])})
    labels = datasets.Dataset.from_dict({"text": [1, 0, -1]}, features)
    labels.to_parquet(tmp_path / "a.parquet")
    labels.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.parquet", tmp_path / "saved"):
        assert captions(rows_of(path)) == ["rain", "dog", "no caption"]


# CSV, TSV and JSON lines


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("a.tsv", ['"Sunset over the hills', "a dog"], ['"Sunset over the hills', "a dog"]),
        ("a.tsv", ['"Sunset', 'a 12" pipe', 'a 5"'], ['"Sunset', 'a 12" pipe', 'a 5"']),
        ("a.tsv", ['"two\nlines, ""quoted"""', "rain"], ['two\nlines, "quoted"', "rain"]),
        ("a.csv", ['"Sunset over the hills', "a dog"], ["Sunset over the hills", "a dog"]),
        ("a.csv", ['"two\nlines, ""quoted"""', "rain"], ['two\nlines, "quoted"', "rain"]),
        ("a.csv", ['"Sunset', "a dog", 'over hills"'], ["Sunset", "a dog", 'over hills"']),
        ("a.csv", ['"Sunset,\nover hills"', "rain"], ["Sunset,\nover hills", "rain"]),
        ("a.csv", ["a dog, a cat", "rain"], ["expected 2 cells in its line, got 3", "rain"]),
    ],
)
def test_quotes_never_swallow_rows(tmp_path, name, lines, expected):
    delimiter = "\t" if name.endswith("tsv") else ","
    text = [f"id{delimiter}caption", *(f"{n}{delimiter}{line}" for n, line in enumerate(lines))]
    (tmp_path / name).write_text("\n".join(text), "utf-8")
    read = rows_of(tmp_path / name)
    assert captions(read) == expected
    assert [row.id for row in read] == [str(n) for n in range(len(lines))]


@pytest.mark.parametrize("first", ["0.jpg", "http://a.org/0.jpg"])
def test_numbered_lines_in_a_cell_are_no_rows_where_rows_begin_otherwise(tmp_path, first):
    (tmp_path / "a.csv").write_text(
        f'image,caption\n{first},"list:\n1,two\n2,three"\n1.jpg,a cat\n'
    )
    assert captions(rows_of(tmp_path / "a.csv")) == ["list:\n1,two\n2,three", "a cat"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_and_encodings_are_found(tmp_path, encoding, delimiter):
    text = delimiter.join(["Image Path", " Caption "]) + "\r\n"
    text += delimiter.join(["a.png", '"R\u00f6te, am Morgen; sp\u00e4t"']) + "\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (row,) = rows_of(tmp_path / "a.csv", wanted=IMAGE)
    assert row.content == {"text": "R\u00f6te, am Morgen; sp\u00e4t", "image": tmp_path / "a.png"}


def test_the_line_that_excel_writes_names_the_delimiter(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\nid;caption\n7;a, b\n")
    assert captions(rows_of(tmp_path / "a.csv")) == ["a, b"]


@pytest.mark.parametrize("name", ["caption", "id", "n"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"caption,id,n,x,x,{name}\na,b,c,d,e,f\n")
    with pytest.raises(UserError, match=f"has 2 columns {name}. Rename one"):
        rows_of(tmp_path / "a.csv", columns=ColumnNames(keep=("n",)))
    pq.write_table(pa.table([["a"], ["b"]], names=["caption"] * 2), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has 2 columns caption"):
        rows_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("cells", ["http://a.org/a.jpg,a,b", "http://a.org/a.jpg"])
def test_a_table_without_a_header_says_so(tmp_path, cells):
    (tmp_path / "a.csv").write_text(f"{cells}\n" * 2)
    with pytest.raises(UserError, match="begins with an address, not with a line of column names"):
        rows_of(tmp_path / "a.csv", wanted=IMAGE)


@pytest.mark.parametrize(
    "text",
    [
        '\n  [{"caption": "a dog"}, {"caption": "rain"}]',
        '[\n  {\n    "caption": "a dog"\n  },\n  {\n    "caption": "rain"\n  }\n]\n',
        '{"caption": "a dog"},\n{"caption": "rain"},\n',
        '{"num_captions_per_audio": 1, "data": [{"caption": "a dog"}, {"caption": "rain"}]}',
        '{\n  "data": [\n {"caption": "a dog"},\n {"caption": "rain"}]\n}\n',
    ],
)
def test_json_documents_give_their_records(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert captions(rows_of(tmp_path / "a.json")) == ["a dog", "rain"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no records. Expected one object"),
        ('[{"caption": "a"},]', r"holds no records: it is no JSON \(.*line 1 column"),
        ('{\n "caption": "a"\n}\n{\n "caption": "b"\n}\n', r"it is no JSON \(Extra data: line 4"),
        (
            '{"columns": ["caption"], "index": [0], "data": [["a"]]}',
            'pandas writes it with orient="s',
        ),
        ('["a dog", "rain"]', r'it is \["a dog", "rain"\]. Expected one object'),
        ("a dog\n", r"it is no JSON \(Expecting value"),
    ],
)
def test_json_without_records_is_named_by_what_it_holds(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        rows_of(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.json", "a.parquet", "a.tar"])
def test_pointers_of_git_lfs_are_named_as_such(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match=f"{name} is a Git LFS pointer, not the file. Run: git lfs"):
        rows_of(tmp_path / name)


def test_json_that_is_no_record_says_so(tmp_path):
    (tmp_path / "a.json").write_text('{\n  "caption": "a dog"\n}\n')
    assert captions(rows_of(tmp_path / "a.json")) == ["a dog"]
    (tmp_path / "a.json").write_text("[1,\n")
    with pytest.raises(UserError, match="is empty, or holds no records"):
        rows_of(tmp_path / "a.json")


def test_json_lines_cost_one_row_each_if_they_are_damaged(tmp_path):
    lines = ['{"caption": "a dog", "n": 1}', "{oops", "[]", '{"caption": 5, "n": 1.5}', ""]
    expected = ["a dog", "its line is no JSON object", "its line is no JSON object", "5"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    for name in ("a.jsonl", "b.jsonl.gz"):
        read = rows_of(tmp_path / name, columns=ColumnNames(keep=("n",)))
        assert captions(read) == expected
        assert [row.columns["n"] for row in read] == ["1", None, None, "1.5"]
    (tmp_path / "c.json").write_text(json.dumps([{"text": "rain"}, 3]))
    assert captions(rows_of(tmp_path / "c.json")) == ["rain", "its line is no JSON object"]


def test_json_values_that_are_no_text_are_no_captions_but_kept(tmp_path):
    values = ["true", "Infinity", "-Infinity", "NaN", "5", '["a", null]', "[true]"]
    lines = [
        f'{{"caption": {value}, "n": {value if number < 5 else 1}}}'
        for number, value in enumerate(values)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    read = rows_of(tmp_path / "a.jsonl", columns=ColumnNames(keep=("n",)))
    refused = [f"expected a caption as text, got {value}" for value in values[:3]]
    listed = "expected captions as text, got a list of bool"
    assert captions(read) == [*refused, "no caption", "5", "a", listed]
    kept = pa.array([row.columns["n"] for row in read])
    assert kept.to_pylist() == ["true", "Infinity", "-Infinity", None, "5", "1", "1"]


def test_a_damaged_archive_is_reported_in_one_line(tmp_path):
    whole = gzip.compress(b"caption\n" + b"a dog\n" * 5000)
    for position in (12, 20, len(whole) - 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "a.csv.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.csv\.gz can't be read") as error:
            rows_of(tmp_path / "a.csv.gz")
        assert "\n" not in str(error.value)


# Files in cells


def test_bytes_come_before_addresses_and_a_failed_download_says_why(tmp_path):
    rows = {
        "url": ["http://127.0.0.1:9/0.jpg", "http://127.0.0.1:9/1.jpg"],
        "caption": ["a dog", "gone"],
        "key": ["00", "01"],
        "status": ["success", "failed_to_download"],
        "error_message": [None, "HTTP Error 404"],
        "jpg": [b"image", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    first, second = rows_of(tmp_path / "00000.parquet", wanted=IMAGE)
    assert first.content["image"] == b"image"
    assert first.columns["file"] == first.id == "00"
    assert second.problem == "failed_to_download (HTTP Error 404)"


def test_an_image_in_json_whose_bytes_are_a_path_is_named_by_its_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": {"bytes": "dog.jpg"}, "caption": "a"}))
    (row,) = rows_of(tmp_path / "a.jsonl", wanted=IMAGE)
    assert row.content["image"] == tmp_path / "dog.jpg"
    assert row.columns["file"] == row.id == "a:0"


def test_base64_and_data_uris_are_files(tmp_path):
    data = bytes(range(256)) * 2
    text = base64.b64encode(data).decode()
    cells = [text, f"data:image/png;base64,{text}", "data:,a%20b", "http://a.org/a.png", "a.png"]
    cells += ["data:image/png;base64,x"]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image"], *([cell] for cell in cells)])
    read = rows_of(tmp_path / "a.csv", wanted=frozenset({"image"}))
    images = [row.content.get("image") for row in read]
    assert images[:4] == [data, data, b"a b", Url("http://a.org/a.png")]
    assert images[4] == tmp_path / "a.png"
    assert "base64 is damaged" in str(read[5].problem)
    assert [row.columns["file"] for row in read[:3]] == ["a:0", "a:1", "a:2"]


@pytest.mark.parametrize("column", ["image_file_name", "image_bytes", "file_name"])
def test_paths_written_on_windows_and_missing_ones_are_found(tmp_path, column):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(b"image")
    (tmp_path / r"b\0.jpg").write_bytes(b"image")
    cells = [r"a\0.jpg", r"b\0.jpg", "nan", ""]
    lines = [f"{cell},a dog" for cell in cells]
    (tmp_path / "a.csv").write_text("\n".join([f"{column},text", *lines]))
    read = rows_of(tmp_path / "a.csv", wanted=IMAGE)
    images = [row.content["image"] for row in read]
    assert images == [tmp_path / "a" / "0.jpg", tmp_path / r"b\0.jpg", None, None]


# Several files, and folders


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/{009..011}.tar", ["9", "10", "11"]),
        ("a/{010,009}.tar", ["10", "9"]),
        ("a/0{0,1}{0..1}.tar", None),
        ("{a,b}/{009..009}.tar", None),
        ("**/*.tar", ["9", "10", "11"]),
    ],
)
def test_patterns_of_shells_and_webdataset_name_many_files(tmp_path, pattern, expected):
    for number in range(9, 12):
        write_shard(tmp_path / "a" / f"{number:03}.tar", [("0.txt", str(number).encode())])
    if expected is None:
        with pytest.raises(UserError, match=r"There is no file or folder .*(000|b/009)\.tar"):
            rows_of(str(tmp_path / pattern))
    else:
        assert captions(rows_of(str(tmp_path / pattern))) == expected
    with pytest.raises(UserError, match="stands for more than"):
        rows_of("{0..999999999}.tar")
    with pytest.raises(UserError, match="more than 100 braces"):
        rows_of("{a,b}/" * 600)


def test_parquet_files_come_before_the_images_of_their_page(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "logo.png").write_bytes(b"image")
    pq.write_table(
        pa.table({"caption": ["a dog"], "image": [b"x"]}), tmp_path / "data" / "a.parquet"
    )
    assert captions(rows_of(tmp_path, wanted=IMAGE)) == ["a dog"]
    (tmp_path / "data" / "0.jpg").write_bytes(b"image")
    (tmp_path / "data" / "0.txt").write_text("rain")
    assert captions(rows_of(tmp_path, wanted=IMAGE)) == [
        "no caption of that name beside it",
        "rain",
    ]


def test_many_parquet_files_are_read_in_order(tmp_path):
    for folder, caption in (("train", "one"), ("test", "two")):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"caption": [caption]}), tmp_path / folder / "0000.parquet")
    for locations in ([tmp_path], [tmp_path / "test", tmp_path / "train"]):
        read = rows_of(*locations)
        assert captions(read) == ["two", "one"]
        assert [row.id for row in read] == ["test/0000:0", "train/0000:0"]
    assert captions(rows_of(str(tmp_path / "*" / "*.parquet"))) == ["two", "one"]
    pq.write_table(pa.table({"b": ["x"]}), tmp_path / "test" / "0001.parquet")
    with pytest.raises(UserError, match=r"0001\.parquet has the columns b, not caption or text"):
        rows_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (["a/m/x.csv", "b/m/x.csv", "y.csv"], ["a/m/x:0", "b/m/x:0", "y:0"]),
        (["en/train/0000.csv", "de/train/0000.csv", "de/test/0000.csv"],
         ["test/0000:0", "de/train/0000:0", "en/train/0000:0"]),
        (["a/x.csv", "a/x.tsv"], ["x.csv:0", "x.tsv:0"]),
    ],
)  # fmt: skip
def test_rows_of_files_of_one_name_have_ids_of_their_own(tmp_path, files, ids):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"caption\n{name}\n")
    assert sorted(row.id for row in rows_of(tmp_path)) == sorted(ids)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["latest-0", "latest-1"], [None] * 2),
        (["festival", "contest"], [None] * 2),
        (["Train-0", "x_VALIDATION", "test2017"], ["train", "val", "test"]),
        (["my_training", "dev", "valid.1"], ["train", "val", "val"]),
        (["Train_GCC-training", "train_test"], [None] * 2),
    ],
)
def test_words_of_file_names_are_splits(tmp_path, names, splits):
    for name in names:
        (tmp_path / f"{name}.csv").write_text("caption\na dog\n")
    read = rows_of(*(tmp_path / f"{name}.csv" for name in names))
    assert [row.columns.get("split") for row in read] == splits


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,text\n0.jpg,a dog\n"),
        ("metadata.jsonl", '{"file_name": "0.jpg", "text": "a dog"}\n'),
    ],
)
@pytest.mark.parametrize("folder", ["", "train"])
def test_an_imagefolder_has_its_captions_in_its_metadata(tmp_path, name, content, folder):
    inside = tmp_path / folder
    inside.mkdir(exist_ok=True)
    (inside / name).write_text(content)
    (inside / "0.jpg").write_bytes(b"image")
    for location in (tmp_path, inside / name):
        (row,) = rows_of(location, wanted=IMAGE)
        assert row.content == {"text": "a dog", "image": inside / "0.jpg"}
    (row,) = rows_of(tmp_path, wanted=frozenset({"image"}))
    assert row.content == {"image": inside / "0.jpg"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_folder_of_tables_is_read_table_by_table(tmp_path, suffix):
    content = {".csv": "caption\n{}\n", ".jsonl": '{{"caption": "{}"}}\n'}[suffix]
    for name in ("a", "b"):
        (tmp_path / f"{name}{suffix}").write_text(content.format(name))
    assert captions(rows_of(tmp_path)) == ["a", "b"]


def test_a_folder_without_images_says_what_they_are(tmp_path):
    (tmp_path / "notes.doc").write_text("a dog")
    with pytest.raises(UserError, match=r"holds no image \(.*\.jpg.*\)"):
        rows_of(tmp_path, wanted=IMAGE)


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_captions_in_files_and_bytes_are_unicode_of_any_kind(tmp_path, suffix, encoding):
    text = "a dog\r\n".encode(encoding)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_bytes(b"image")
    (tmp_path / "folder" / f"a{suffix}").write_bytes(text)
    write_shard(tmp_path / "a.tar", [("a.jpg", b"image"), (f"a{suffix}", text)])
    pq.write_table(pa.table({"image": [b"image"], "caption": [text]}), tmp_path / "a.parquet")
    for name in ("folder", "a.tar", "a.parquet"):
        found = captions(rows_of(tmp_path / name, wanted=IMAGE))
        assert [caption.strip() for caption in found if caption] == ["a dog"]


def test_captions_that_are_cut_off_are_reported(tmp_path):
    text = "a dog".encode("utf-16-le")[:-1]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_bytes(b"image")
    (tmp_path / "folder" / "a.txt").write_bytes(text)
    write_shard(tmp_path / "a.tar", [("a.jpg", b"image"), ("a.txt", text)])
    for name in ("folder", "a.tar"):
        (reason,) = captions(rows_of(tmp_path / name, wanted=IMAGE))
        assert "its text is not valid UTF-16-LE" in str(reason)


def test_folders_linked_in_a_circle_and_hidden_files_are_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "._a.jpg", "sub/b.jpg"):
        (tmp_path / name).write_bytes(b"image")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "self").symlink_to(tmp_path / "sub")
    read = rows_of(tmp_path, wanted=frozenset({"image"}))
    assert [row.id for row in read] == ["a.jpg", "sub/b.jpg"]


# Tars


def test_a_tars_json_costs_one_row_if_it_is_no_object_with_a_caption(tmp_path):
    contents = {
        "a": b'{"caption": ["a dog", "the dog"], "url": {"a": 1}}',
        "b": b"null",
        "c": b"[" * 100_000,
        "d": b'{"caption": {"a": 1}}',
        "e": b'{"caption": NaN}',
        "f": b'{"TEXT": "rain", "url": "http://a.org/f.jpg"}',
        "g": b'{"caption": "\\ud800x"}',
    }
    members = [(f"{key}.json", body) for key, body in contents.items()]
    write_shard(tmp_path / "a.tar", [*members, ("h.json", b"7"), ("h.txt", b"\xef\xbb\xbfwind")])
    read = rows_of(tmp_path / "a.tar")
    assert captions(read) == [
        "a dog",
        "expected its json as an object, got null",
        "its json is damaged",
        "expected a caption as text, got a dict",
        "no caption",
        "rain",
        "its caption is not valid UTF-8",
        "wind",
    ]
    assert [row.columns["url"] for row in read] == [None] * 5 + ["http://a.org/f.jpg", None, None]


@pytest.mark.parametrize("length", [700, 1024 + 300, 2048 + 520])
def test_a_tar_that_is_cut_off_is_reported(tmp_path, length):
    path = tmp_path / "a.tar"
    write_shard(path, [(f"{row}.txt", b"a dog") for row in range(3)])
    assert len(rows_of(path)) == 3
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"a\.tar can't be read as a tar file"):
        rows_of(path)


def test_names_with_dots_in_a_tar_are_whole(tmp_path):
    members = [
        ("./one.5_x.flac", b"sound"),
        ("./one.5_x.json", b'{"text": "a dog"}'),
        ("one.6_x.flac", b"noise"),
        ("one.6_x.json", b'{"text": "a cat"}'),
        ("two.flac", b"rain"),
        ("two.mask.flac", b"no"),
        ("two.txt", b"rain"),
    ]
    write_shard(tmp_path / "a.tgz", members)
    read = rows_of(tmp_path / "a.tgz", wanted=AUDIO)
    assert [row.id for row in read] == ["a/one.5_x", "a/one.6_x", "a/two"]
    assert [row.content["audio"] for row in read] == [b"sound", b"noise", b"rain"]
    assert captions(read) == ["a dog", "a cat", "rain"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ("v1.jpg v1.txt v1.5.jpg v1.5.txt v2.jpg v2.txt", "v1 v1.5 v2"),
        ("v1.5.jpg v1.5.txt v1.jpg v1.txt v2.jpg v2.txt", "v1.5 v1 v2"),
        ("v1.jpg v1.txt v1.b.png v1.b.txt v1.c.jpg v1.c.txt", "v1 v1.b v1.c"),
        ("a.jpg a.json a.1.jpg a.1.json", "a a.1"),
        ("a.jpg a.mask.jpg a.txt b.jpg b.txt", "a b"),
        ("a.alpha.jpg a.jpg a.txt b.jpg b.txt", "a b"),
        ("a.jpg a.txt a.mask.jpg b.jpg b.txt", "a b"),
        ("a.jpg a.json a.seg.jpg a.seg.json a.txt b.jpg b.txt", "a b"),
    ],
)
def test_a_name_that_begins_with_another_is_a_sample_if_it_has_all_of_one(tmp_path, names, ids):
    body = {"jpg": b"image", "png": b"image", "json": b'{"caption": "rain"}', "txt": b"a dog"}
    write_shard(tmp_path / "a.tar", [(name, body[name.split(".")[-1]]) for name in names.split()])
    read = rows_of(tmp_path / "a.tar", wanted=IMAGE)
    assert [row.id for row in read] == [f"a/{key}" for key in ids.split()]
    assert [check_row(row, ["image", "text"]) for row in read] == [None] * len(read)


def test_tars_that_were_joined_are_read_to_the_end(tmp_path):
    for name in ("one", "two"):
        write_shard(tmp_path / f"{name}.tar", [(f"{name}.txt", name.encode())])
    whole = (tmp_path / "one.tar").read_bytes() + (tmp_path / "two.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole)
    assert captions(rows_of(tmp_path / "a.tar")) == ["one", "two"]
    (tmp_path / "a.tar").write_bytes(whole + b"left from a longer file" * 100)
    assert captions(rows_of(tmp_path / "a.tar")) == ["one", "two"]


def test_a_tar_that_is_cut_off_between_members_has_a_failure(tmp_path):
    write_shard(tmp_path / "a.tar", [(f"{row}.txt", b"a dog") for row in range(3)])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:2048])
    *rest, last = captions(rows_of(tmp_path / "a.tar"))
    assert rest == ["a dog"] * 2
    assert "a.tar has no end: members after its last one may be missing" in str(last)
    (tmp_path / "a.tar").write_bytes(whole[:1024] + b"damaged" + whole[1031:])
    with pytest.raises(UserError, match=r"a\.tar can't be read as a tar file"):
        rows_of(tmp_path / "a.tar")


def test_captions_and_audio_in_a_tar_have_the_suffixes_of_a_folders(tmp_path):
    members = [("a.mp4", b"video"), ("a.caption", b"a dog")]
    members += [
        ("b.wav", b"sound"),
        ("b.mp4", b"video"),
        ("b.txt", b" "),
        ("b.json", b'{"text":"x"}'),
    ]
    write_shard(tmp_path / "shards" / "a.tar", members)
    (tmp_path / "folder").mkdir()
    for name, body in members[:2]:
        (tmp_path / "folder" / name).write_bytes(body)
    first, second = rows_of(tmp_path / "shards", wanted=AUDIO)
    assert first.content == {"text": "a dog", "audio": b"video"}
    assert second.content == {"text": "x", "audio": b"sound"}
    (row,) = rows_of(tmp_path / "folder", wanted=AUDIO)
    assert row.content == {"text": "a dog", "audio": tmp_path / "folder" / "a.mp4"}


def test_large_and_unwanted_members_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("clip2clap.embeddings.datasets.webdataset._MAX_BYTES", 100)
    write_shard(tmp_path / "a.tar", [("a.txt", b"dog"), ("a.wav", b"x" * 101), ("a.mp4", b"y" * 9)])
    (row,) = rows_of(tmp_path / "a.tar", wanted=AUDIO)
    assert row.problem == "its .wav file is larger than 100 bytes"
    assert rows_of(tmp_path / "a.tar")[0].content == {"text": "dog"}


# Published data sets under other names


def test_an_address_that_is_missing_is_no_image(tmp_path):
    (tmp_path / "cc.tsv").write_text("a dog\thttp://a.b/c.jpg\nrain\t\n")
    first, second = rows_of(tmp_path / "cc.tsv", wanted=IMAGE)
    assert check_row(first, sorted(IMAGE)) is None
    assert check_row(second, sorted(IMAGE)) == "no image"


def test_conceptual_12m_has_the_address_first(tmp_path):
    lines = ["http://a.org/a.jpg\ta dog", "http://a.org/b.jpg\ta cat"]
    (tmp_path / "cc12m.tsv").write_text("\n".join(lines))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "cc.tsv").write_text("\n".join(lines))
    (tmp_path / "cc.csv").write_text(
        "\n".join(lines).replace("\t", ",").replace("a cat", '"a cat"')
    )
    for options in ({}, {"format": "conceptual-captions"}):
        for name in ("cc12m.tsv", "cc.csv", "folder" if not options else "folder/cc.tsv"):
            read = rows_of(tmp_path / name, wanted=IMAGE, **options)
            assert captions(read) == ["a dog", "a cat"]
            assert read[0].content["image"] == "http://a.org/a.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "clip0_30.mp4",
        "900.wav",
        "clip0.flac",
        "Yclip0_30.000_40.000.wav",
        "clip0_30.000_40.000.wav",
        "clip0_30000_40000.wav",
        "Yclip0.wav",
        "Yclip0_30.0.wav",
        "clip0_000030.wav",
        "clip0_000030_000040.m4a",
        "clip0_30_37.wav",
        "clip0_30000_37000.wav",
    ],
)
def test_clips_of_audiocaps_are_found_by_their_usual_names(tmp_path, name):
    write_audiocaps(tmp_path / "a.csv", ["rain"])
    table = (tmp_path / "a.csv").read_text().replace(",30,", ",30.0,")
    (tmp_path / "floats.csv").write_text(table)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / name).write_bytes(b"sound")
    for captions_file in ("a.csv", "floats.csv"):
        (row,) = rows_of(tmp_path / captions_file, wanted=AUDIO, audio=tmp_path / "audio")
        assert row.content["audio"] == tmp_path / "audio" / name
        assert row.columns["item"] == "clip0_30"


def test_clips_of_audiocaps_are_found_by_yt_dlps_names_and_pandas_ids(tmp_path):
    lines = ["audiocap_id,youtube_id,start_time,caption", "900.0,r1nicOVtvkQ,30,a", "901.0,x,30,b"]
    (tmp_path / "a.csv").write_text("\n".join([*lines, "902,-2nicOVtvkQ,30,c"]))
    names = ["Dogs [r1nicOVtvkQ].webm", "901.wav", "Cats--2nicOVtvkQ.m4a"]
    (tmp_path / "audio").mkdir()
    for name in names:
        (tmp_path / "audio" / name).write_bytes(b"sound")
    read = rows_of(tmp_path / "a.csv", wanted=AUDIO, audio=tmp_path / "audio")
    assert [row.content["audio"] for row in read] == [tmp_path / "audio" / name for name in names]
