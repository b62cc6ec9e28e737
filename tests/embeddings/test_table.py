import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
)
from clip2clap.embeddings.table.convert import concatenate
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

DIM = 8
CLIP = EmbeddingSpace("clip", "a/clip", "text", DIM, True, "c1")
CLAP = EmbeddingSpace("clap", "a/clap", "text", DIM, True, "d1")
SPACES = {"clip_text": CLIP, "clap_text": CLAP}


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    return unit_norm(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)))


LARGE = EmbeddingSpace("clip", "a/clip", "text", 512, True, "c1")


def write(folder, ids, *, spaces=SPACES, seed=0, **options):
    embeds = {column: vectors(len(ids), seed + n) for n, column in enumerate(spaces)}
    with TableWriter(folder, spaces, **options) as writer:
        writer.append(ids, {"caption": [f"caption {i}" for i in ids]}, embeds)
    return embeds


def test_float32_vectors_come_back_as_they_were_written(tmp_path):
    embeds = write(tmp_path, ["a", "b", "c"], dtype="float32")
    table = EmbeddingTable.open(tmp_path)
    assert torch.equal(table.tensor("clip_text"), embeds["clip_text"])
    assert torch.equal(table.tensor("clap_text"), embeds["clap_text"])
    assert np.array_equal(table.to_numpy("clap_text"), embeds["clap_text"].numpy())
    assert table.ids == ["a", "b", "c"]
    assert table.source("caption") == ["caption a", "caption b", "caption c"]
    assert table.spaces == SPACES
    assert table.rows(1, 2)["id"].to_pylist() == ["b"]


def test_float16_vectors_are_the_rounded_ones(tmp_path):
    embeds = write(tmp_path, ["a", "b"])
    assert torch.equal(
        EmbeddingTable.open(tmp_path).tensor("clip_text"), embeds["clip_text"].half()
    )


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5), shard=st.integers(1, 9))
def test_rows_keep_their_order_however_they_are_appended(tmp_path_factory, sizes, shard):
    folder = tmp_path_factory.mktemp("table")
    ids = [str(i) for i in range(sum(sizes))]
    embeds = vectors(len(ids))
    start = 0
    for size in sizes:  # every batch from a writer of its own, as after as many interruptions
        with TableWriter(
            folder, {"clip_text": CLIP}, dtype="float32", rows_per_shard=shard
        ) as writer:
            stop = start + size
            writer.append(ids[start:stop], {}, {"clip_text": embeds[start:stop]})
            start = stop
    table = EmbeddingTable.open(folder)
    assert table.ids == ids
    assert torch.equal(table.tensor("clip_text"), embeds)


def test_datasets_opens_the_folder(tmp_path):
    embeds = write(tmp_path, ["a", "b"], dtype="float32")
    dataset: Any = datasets.load_from_disk(tmp_path).with_format("torch")
    assert dataset["id"][:] == ["a", "b"]
    assert torch.equal(dataset[:]["clip_text"], embeds["clip_text"])


def test_pandas_and_duckdb_read_the_rows_through_arrow(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    embeds = write(tmp_path, ["a", "b", "c"], dtype="float32")
    rows = EmbeddingTable.open(tmp_path).rows(0, 3)
    frame = rows.to_pandas()
    assert frame["id"].tolist() == ["a", "b", "c"]
    assert np.array_equal(np.stack(frame["clip_text"].tolist()), embeds["clip_text"].numpy())
    found = duckdb.sql("select id, clip_text[1] from rows where caption = 'caption b'").fetchall()
    assert found == [("b", pytest.approx(embeds["clip_text"][1, 0].item()))]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_a_closed_table_gives_a_tensor_without_reading_the_file(tmp_path):
    rows, embeds = 20_000, vectors(20_000)
    with TableWriter(tmp_path, {"clip_text": CLIP}, rows_per_shard=3000) as writer:
        for start in range(0, rows, 1000):
            ids = [str(i) for i in range(start, start + 1000)]
            writer.append(ids, {"n": ids}, {"clip_text": embeds[start : start + 1000]})
    table = EmbeddingTable.open(tmp_path)
    tensor = table.tensor("clip_text")
    assert torch.equal(tensor, embeds.half())
    assert table.source("n") == table.ids == [str(i) for i in range(rows)]
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line for line in lines if ".arrow" in line and str(tmp_path) in line]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in mapped]
    assert any(begin <= tensor.data_ptr() < end for begin, end in spans)


def test_writing_to_a_tensor_changes_neither_the_file_nor_other_tensors(tmp_path):
    embeds = write(tmp_path, ["a"], dtype="float32")
    table = EmbeddingTable.open(tmp_path)
    table.tensor("clip_text").zero_()
    assert torch.equal(table.tensor("clip_text"), embeds["clip_text"])
    assert torch.equal(EmbeddingTable.open(tmp_path).tensor("clip_text"), embeds["clip_text"])


def test_an_empty_table_opens(tmp_path):
    TableWriter(tmp_path, SPACES).close()
    table = EmbeddingTable.open(tmp_path)
    assert len(table) == 0
    assert table.tensor("clip_text").shape == (0, DIM)
    write(tmp_path, ["a"])
    assert len(EmbeddingTable.open(tmp_path)) == 1


def write_slowly(folder: Path, seconds: float = 0.0) -> None:
    with TableWriter(folder, {"clip_text": CLIP}, dtype="float32", rows_per_shard=5) as writer:
        for i in range(100):
            if str(i) in writer:
                continue
            if i % 10 == 3:
                writer.fail(str(i), "dead link")
                continue
            writer.append([str(i)], {"n": [i]}, {"clip_text": torch.eye(DIM)[[i % DIM]]})
            time.sleep(seconds)


def test_a_run_killed_at_any_moment_continues_without_a_lost_or_a_double_row(tmp_path, start_fork):
    random = Random(0)
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        for _ in range(3):
            child = start_fork(write_slowly, folder, 0.004)
            time.sleep(random.uniform(0.05, 0.2))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        write_slowly(folder)
        table = EmbeddingTable.open(folder)
        expected = [i for i in range(100) if i % 10 != 3]
        assert table.ids == [str(i) for i in expected]
        assert table.source("n") == expected
        assert table.tensor("clip_text").argmax(dim=1).tolist() == [i % DIM for i in expected]
        assert table.failures() == {str(i): "dead link" for i in range(3, 100, 10)}
        assert len(list(folder.glob("*.arrow"))) == 1
        assert pq.read_table(folder / "failures.parquet").num_rows == 10


def test_files_of_an_unfinished_step_are_swept_away(tmp_path):
    write(tmp_path, ["a"])
    (tmp_path / "data-000009.arrow").write_bytes(b"written, but never named in state.json")
    (tmp_path / "data-000010.arrow.part").write_bytes(b"half")
    write(tmp_path, ["b"], seed=5)
    assert EmbeddingTable.open(tmp_path).ids == ["a", "b"]
    assert not (tmp_path / "data-000010.arrow.part").exists()


def test_an_error_in_the_middle_keeps_what_was_appended(tmp_path):
    def fail_midway():
        with TableWriter(tmp_path, {"clip_text": CLIP}) as writer:
            writer.append(["a"], {}, {"clip_text": vectors(1)})
            raise RuntimeError("network gone")

    with pytest.raises(RuntimeError):
        fail_midway()
    assert EmbeddingTable.open(tmp_path).ids == ["a"]


def test_failures_are_kept_with_the_rows_of_their_step(tmp_path):
    for part in range(3):  # every part from a writer of its own
        with TableWriter(tmp_path, SPACES) as writer:
            assert len(writer) == 3 * part
            embeds = {"clip_text": vectors(1), "clap_text": vectors(1)}
            writer.append(
                [f"row {part}"], {}, embeds, failures={f"link {part}": "timed out\nagain"}
            )
            writer.fail(f"file {part}", "no such file")
            assert f"link {part}" in writer
            with pytest.raises(TableError, match=f"'link {part}' is in the table"):
                writer.append([f"link {part}"], {}, embeds)
    expected = {}
    for part in range(3):
        expected |= {f"link {part}": "timed out again", f"file {part}": "no such file"}
    table = EmbeddingTable.open(tmp_path)
    assert table.failures() == expected
    assert table.ids == ["row 0", "row 1", "row 2"]
    assert pq.read_table(tmp_path / "failures.parquet").to_pydict() == {
        "id": list(expected),
        "reason": list(expected.values()),
    }
    assert {file.name for file in tmp_path.iterdir()} >= {"state.json", "failures.parquet"}
    assert not list(tmp_path.glob("failures-*"))


def test_a_run_killed_while_its_failures_are_put_together_has_each_once(tmp_path, monkeypatch):
    write(tmp_path, ["a"])
    with TableWriter(tmp_path, SPACES) as writer:
        writer.fail("b", "dead link")
    writer = TableWriter(tmp_path, SPACES)
    writer.fail("c", "dead link")
    writer.flush()
    # The next step is cut off between the new failures.parquet and the state that names it.
    replace = os.replace

    def cut_off(source: Path, target: Path) -> None:
        if Path(target).name == "state.json":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            writer.close()
    assert pq.read_table(tmp_path / "failures.parquet")["id"].to_pylist() == ["b", "c"]
    assert list(EmbeddingTable.open(tmp_path).failures()) == ["b", "c"]
    with TableWriter(tmp_path, SPACES) as again:
        again.fail("d", "dead link")
    assert pq.read_table(tmp_path / "failures.parquet")["id"].to_pylist() == ["b", "c", "d"]


def test_a_table_is_continued_with_the_settings_it_was_begun_with(tmp_path):
    with TableWriter(tmp_path, SPACES, settings={"source": "a.csv", "columns": ("x",)}):
        pass
    with TableWriter(tmp_path, SPACES, settings={"source": "a.csv", "columns": ("x",)}):
        pass
    with pytest.raises(TableError, match=r"source was 'a\.csv' and is now 'b\.csv'"):
        TableWriter(tmp_path, SPACES, settings={"source": "b.csv", "columns": ("x",)})
    assert EmbeddingTable.open(tmp_path).settings == {"source": "a.csv", "columns": ["x"]}
    write(tmp_path / "unknown", ["a"])
    with pytest.raises(TableError, match="unknown origin"):
        TableWriter(tmp_path / "unknown", SPACES, settings={"source": "a.csv"})


def fill_the_disk(folder: Path, said: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    try:
        with TableWriter(folder, {"clip_text": LARGE}) as writer:
            vectors_ = torch.eye(512)[:1].expand(100, -1)
            writer.append([f"b{i}" for i in range(100)], {}, {"clip_text": vectors_})
    except TableError as error:
        said.write_text(str(error))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, in_a_fork):
    ids = [f"a{i}" for i in range(100)]
    with TableWriter(tmp_path / "table", {"clip_text": LARGE}) as writer:
        writer.append(ids, {}, {"clip_text": torch.eye(512)[:100]})
    in_a_fork(fill_the_disk, tmp_path / "table", tmp_path / "said")
    assert re.fullmatch(
        r"There is no room left to write to \S+\. Make some\. The 100 rows before are safe: start "
        r"again\.",
        (tmp_path / "said").read_text(),
    )
    assert EmbeddingTable.open(tmp_path / "table").ids == ids
    assert not list((tmp_path / "table").glob("*.part"))
    with TableWriter(tmp_path / "table", {"clip_text": LARGE}) as writer:
        assert len(writer) == 100


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TableError, match=r"can't be written to: .+ Nothing was written\."):
        TableWriter(tmp_path / "file" / "table", SPACES)


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    with (
        TableWriter(tmp_path, SPACES),
        pytest.raises(TableError, match="Another run is writing"),
    ):
        TableWriter(tmp_path, SPACES)


def test_a_table_of_other_models_cannot_be_continued(tmp_path):
    write(tmp_path, ["a"])
    other = {**SPACES, "clap_text": EmbeddingSpace("clap", "b/clap", "text", DIM, True, "d2")}
    with pytest.raises(SpaceMismatchError, match=r"a/clap.*d1.*b/clap.*d2"):
        TableWriter(tmp_path, other)
    with pytest.raises(TableError, match="float16"):
        TableWriter(tmp_path, SPACES, dtype="float32")
    with pytest.raises(TableError, match="clap_text"):
        TableWriter(tmp_path, {"clip_text": CLIP})


@pytest.mark.parametrize(
    ("ids", "sources", "change", "message"),
    [
        (["a", "a"], {}, {}, "'a' is in the table"),
        (["old", "b"], {}, {}, "'old' is in the table"),
        ([1, 2], {}, {}, r"str\(id\)"),
        (["a", "b"], {"caption": ["only one"]}, {}, "Expected 2 values of 'caption', got 1"),
        (["a", "b"], {"clip_text": [1, 2]}, {}, "that column is reserved"),
        (["a", "b"], {}, {"clip_text": torch.zeros(2, DIM + 1)}, r"shape \(2, 8\), got \(2, 9\)"),
        (["a", "b"], {}, {"clip_text": vectors(2) * 3}, "unit norm"),
        (["a", "b"], {}, {"clip_text": vectors(2) * float("nan")}, "NaN"),
        (["a", "b"], {}, {"other": vectors(2)}, "Expected embeddings of clip_text, clap_text"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, ids, sources, change, message):
    with TableWriter(tmp_path, SPACES) as writer:
        writer.append(["old"], {}, {"clip_text": vectors(1), "clap_text": vectors(1)})
        embeds = {"clip_text": vectors(2), "clap_text": vectors(2), **change}
        with pytest.raises(TableError, match=message):
            writer.append(ids, sources, embeds)
    assert EmbeddingTable.open(tmp_path).ids == ["old"]


def test_sources_keep_one_set_of_columns(tmp_path):
    spaces = {"clip_text": CLIP}
    with TableWriter(tmp_path, spaces) as writer:
        writer.append(["a"], {"seconds": [None]}, {"clip_text": vectors(1)})
        with pytest.raises(TableError, match="Expected the columns id, seconds, clip_text"):
            writer.append(["b"], {}, {"clip_text": vectors(1)})


def test_a_first_row_with_a_double_id_leaves_an_empty_table(tmp_path):
    with (
        pytest.raises(TableError, match="The id 'a' is in the table already"),
        TableWriter(tmp_path, {"clip_text": CLIP}) as writer,
    ):
        writer.append(["a", "a"], {"caption": ["x", "y"]}, {"clip_text": vectors(2)})
    assert len(EmbeddingTable.open(tmp_path)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns("clip_text"), "with the column 'clip_text'"),
        (lambda rows: rows.drop_columns("id"), "with the column 'id'"),
        (lambda rows: replaced(rows, [[0.0] * DIM, [1.0]]), "got list<item: float>"),
        (lambda rows: replaced(rows, [None, [0.5] * DIM], fixed=True), "without nulls"),
        (lambda rows: replaced(rows, [[None] * DIM, [0.5] * DIM], fixed=True), "without nulls"),
        (lambda rows: replaced(rows, [[9.0] * DIM] * 2, fixed=True), "should be unit norm"),
        (lambda rows: replaced(rows, [[math.nan] * DIM] * 2, fixed=True), "holds NaN"),
    ],
)
def test_arrow_rows_that_do_not_fit_are_refused(tmp_path, change, message):
    write(tmp_path / "table", ["a", "b"], spaces={"clip_text": CLIP}, dtype="float32")
    rows = change(EmbeddingTable.open(tmp_path / "table").data)
    with (
        pytest.raises(TableError, match=message),
        TableWriter(tmp_path / "copy", {"clip_text": CLIP}, dtype="float32") as writer,
    ):
        writer.append_table(rows)
    assert len(EmbeddingTable.open(tmp_path / "copy")) == 0


def replaced(rows: pa.Table, values: list[Any], *, fixed: bool = False) -> pa.Table:
    array = pa.array(values, pa.list_(pa.float32(), DIM if fixed else -1))
    return rows.set_column(rows.column_names.index("clip_text"), "clip_text", array)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(TableError, match=r"something else \(holiday.jpg\)"):
        TableWriter(tmp_path, SPACES)


def test_opening_what_is_no_table_says_so(tmp_path):
    with pytest.raises(TableError, match=r"no state.json"):
        EmbeddingTable.open(tmp_path)
    datasets.Dataset.from_dict({"id": ["a"]}).save_to_disk(tmp_path / "foreign")
    with pytest.raises(TableError, match="does not say which models"):
        EmbeddingTable.open(tmp_path / "foreign")


def test_a_cut_off_file_is_reported(tmp_path):
    write(tmp_path, ["a"])
    name = json.loads((tmp_path / "state.json").read_text())["_data_files"][0]["filename"]
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(TableError, match="missing or damaged"):
        EmbeddingTable.open(tmp_path)


def use_all(folder: Path) -> None:
    table = EmbeddingTable.open(folder)
    table.rows(0, len(table)).to_pylist()
    for column in table.spaces:
        table.tensor(column).float().sum()
        table.read(column, torch.tensor([0, 2]))
    table.failures()


def flip_bytes(folder: Path, said: Path) -> None:
    """Change each of many bytes of a table's files, and count what comes of it."""
    random, outcomes = Random(0), []
    for file in sorted(path for path in folder.iterdir() if path.name != ".lock"):
        whole = file.read_bytes()
        for position in random.sample(range(len(whole)), min(120, len(whole))):
            changed = bytearray(whole)
            changed[position] ^= random.randrange(1, 256)
            file.write_bytes(changed)
            try:
                use_all(folder)
                outcomes.append(f"{file.suffix} read")
            except TableError:
                outcomes.append(f"{file.suffix} refused")
        file.write_bytes(whole)
    said.write_text("\n".join(outcomes))


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_changed_byte_is_a_table_error_and_never_a_crash(tmp_path, in_a_fork, has_checksums):
    folder, said = tmp_path / "table", tmp_path / "said"
    write(folder, ["a", "b", "c"])
    with TableWriter(folder, SPACES) as writer:
        writer.fail("d", "dead link")
    if not has_checksums:
        forget_checksums(folder)
    assert not in_a_fork(flip_bytes, folder, said)
    outcomes = said.read_text().split()
    assert len(outcomes) > 300
    if has_checksums:
        assert ".arrow read" not in said.read_text()


def forget_checksums(folder: Path) -> None:
    """Write a table's state as older versions did."""
    state = json.loads((folder / "state.json").read_text())
    del state["clip2clap"]["checksums"]
    (folder / "state.json").write_text(json.dumps(state))


def test_verify_reads_large_files_too(tmp_path, monkeypatch):
    monkeypatch.setattr("clip2clap.embeddings.table.format._CHECKED_BYTES", 10)
    write(tmp_path, ["a", "b", "c"])
    assert EmbeddingTable.open(tmp_path).verify()
    (file,) = tmp_path.glob("*.arrow")
    content = bytearray(file.read_bytes())
    at = content.find(EmbeddingTable.open(tmp_path).to_numpy("clap_text").tobytes())
    content[at] ^= 1
    file.write_bytes(content)
    table = EmbeddingTable.open(tmp_path)
    with pytest.raises(TableError, match="its content has changed since it was written"):
        table.verify()


def test_a_table_without_checksums_is_read_and_continued_with_them(tmp_path):
    write(tmp_path, ["a", "b"])
    forget_checksums(tmp_path)
    table = EmbeddingTable.open(tmp_path)
    assert table.ids == ["a", "b"]
    assert not table.verify()
    write(tmp_path, ["c"], seed=5)
    assert EmbeddingTable.open(tmp_path).verify()


def test_concatenate_keeps_rows_and_failures(tmp_path):
    first = write(tmp_path / "1", ["a", "b"], dtype="float32")
    second = write(tmp_path / "2", ["c"], dtype="float32", seed=7)
    with TableWriter(tmp_path / "2", SPACES, dtype="float32") as writer:
        writer.fail("d", "dead link")
        writer.fail("a", "dead link")  # a row of the first table
    tables = [EmbeddingTable.open(tmp_path / name) for name in ("1", "2")]
    joined = concatenate(tables, tmp_path / "joined", rows_per_shard=1)
    assert joined.ids == ["a", "b", "c"]
    assert torch.equal(
        joined.tensor("clap_text"), torch.cat([first["clap_text"], second["clap_text"]])
    )
    assert joined.failures() == {"d": "dead link"}


def test_concatenate_refuses_other_spaces_dtypes_columns_and_double_ids(tmp_path):
    write(tmp_path / "1", ["a"])
    first = EmbeddingTable.open(tmp_path / "1")
    foreign = {**SPACES, "clip_text": EmbeddingSpace("clip", "b/clip", "text", DIM, True, "c2")}
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("spaces", r"a/clip.*b/clip", {"spaces": foreign}),
        ("dtypes", "float32", {"dtype": "float32"}),
        ("columns", "can't be concatenated", {"spaces": {"clip_text": CLIP}}),
        ("ids", "'a' is in the table", {}),
    )
    for name, message, options in cases:
        write(tmp_path / name, ["a"], **options)
        with pytest.raises((TableError, SpaceMismatchError), match=message):
            concatenate([first, EmbeddingTable.open(tmp_path / name)], tmp_path / f"{name}-out")


def test_concatenate_takes_a_model_under_another_name(tmp_path):
    write(tmp_path / "1", ["a"])
    copied = {**SPACES, "clip_text": EmbeddingSpace("clip", "my/copy", "text", DIM, True, "c1")}
    write(tmp_path / "2", ["b"], spaces=copied)
    tables = [EmbeddingTable.open(tmp_path / name) for name in ("1", "2")]
    assert len(concatenate(tables, tmp_path / "both")) == 2


def test_parquet_round_trip_keeps_values_sources_and_spaces(tmp_path):
    embeds = write(tmp_path / "table", ["a", "b"], dtype="float32")
    EmbeddingTable.open(tmp_path / "table").to_parquet(tmp_path / "table.parquet")
    again = EmbeddingTable.from_parquet(tmp_path / "table.parquet", tmp_path / "again")
    assert torch.equal(again.tensor("clap_text"), embeds["clap_text"])
    assert again.spaces == SPACES
    assert again.source("caption") == ["caption a", "caption b"]
    (tmp_path / "no.parquet").write_bytes(b"text")
    with pytest.raises(TableError, match="can't be read as Parquet"):
        EmbeddingTable.from_parquet(tmp_path / "no.parquet", tmp_path / "none")
    content = (tmp_path / "table.parquet").read_bytes()
    (tmp_path / "damaged.parquet").write_bytes(content.replace(b"element", b"\xfflement"))
    with pytest.raises(TableError, match=r"can't be read as Parquet.*utf-8"):
        EmbeddingTable.from_parquet(tmp_path / "damaged.parquet", tmp_path / "none")
