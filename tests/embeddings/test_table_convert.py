"""Tables written for other programs, read as those programs do, and read back."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.embeddings.table.convert import export_table, import_table
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

DIM, ROWS = 7, 12
SPACES = {
    "clip_text": EmbeddingSpace("clip", "a/clip", "text", DIM, True, "c1"),
    "clap_text": EmbeddingSpace("clap", "a/clap", "text", DIM, True, "d1"),
}


@pytest.fixture(params=["float16", "float32"])
def table(request, tmp_path) -> EmbeddingTable:
    random = torch.Generator().manual_seed(0)
    embeds = {name: unit_norm(torch.randn(ROWS, DIM, generator=random)) for name in SPACES}
    with TableWriter(tmp_path / "table", SPACES, dtype=request.param) as writer:
        captions = [f'a "quoted", caption {i}' for i in range(ROWS)]
        writer.append([f"row {i}" for i in range(ROWS)], {"caption": captions}, embeds)
    return EmbeddingTable.open(tmp_path / "table")


@pytest.mark.parametrize("format", ["parquet", "numpy", "csv", "text"])
def test_what_is_exported_comes_back_to_float32(table, tmp_path, format):
    folder = export_table(table, tmp_path / "out", format)
    again = import_table(folder, tmp_path / "again")
    assert again.ids == table.ids
    assert again.source("caption") == table.source("caption")
    assert again.spaces == table.spaces
    for column in SPACES:
        assert torch.equal(again.tensor(column).float(), table.tensor(column).float())


def read_as_the_reference_does(file: Path) -> dict[str, list[np.ndarray]]:
    """Read a pair: every line after a title that holds anything is one value."""
    found: dict[str, list[np.ndarray]] = {}
    values: list[np.ndarray] = []
    for line in file.read_text().splitlines(keepends=True):
        if line.startswith(("CLIP Embedding:", "CLAP Embedding:")):
            values = found.setdefault(line.split()[0], [])
        elif line.strip():
            values.append(np.array(line.split(), np.float64))
    return found


def test_the_text_files_are_what_the_reference_projects_training_reads(table, tmp_path):
    folder = export_table(table, tmp_path / "train", "text")
    assert sorted(os.listdir(folder)) == sorted(f"muestra_{i}.txt" for i in range(ROWS))
    for place in range(ROWS):
        pair = read_as_the_reference_does(folder / f"muestra_{place}.txt")
        for title, column in (("CLIP", "clip_text"), ("CLAP", "clap_text")):
            values = torch.tensor(np.array(pair[title]))
            assert values.shape == (DIM, 1)
            assert torch.equal(values[:, 0], table.tensor(column)[place].double())
    lines = (folder / "muestra_0.txt").read_text().split("\n")
    assert lines[0] == "CLIP Embedding:"
    assert lines[DIM + 1 : DIM + 4] == ["", "", "CLAP Embedding:"]
    assert len(lines[1].lstrip("-")) == len("1.000000000000000000e+00")


def test_the_csv_files_are_what_the_reference_projects_programs_read(table, tmp_path):
    folder = export_table(table, tmp_path / "csv", "csv")
    with (folder / "CLIP.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert len(header) == DIM
    assert torch.equal(
        torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64),
        table.tensor("clip_text").double(),
    )
    with (folder / "CLAP.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    lists = [[float(v) for v in " ".join(row).strip("[]").split(", ")] for row in rows]
    assert torch.equal(torch.tensor(lists, dtype=torch.float64), table.tensor("clap_text").double())


def test_files_of_the_reference_project_become_a_table_of_unit_norm(table, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for place, length in ((0, 9.5), (2, 11.0), (10, 8.25)):  # not in the order of names as texts
        vectors = [table.tensor(column)[place].double() for column in SPACES]
        with (folder / f"muestra_{place}.txt").open("w") as file:
            file.write("CLIP Embedding:\n")
            np.savetxt(file, (vectors[0] * length).numpy())
            file.write("\n\nCLAP Embedding:\n")
            np.savetxt(file, vectors[1].numpy())
    with pytest.raises(UserError, match="Give their spaces"):
        import_table(folder, tmp_path / "none")
    again = import_table(folder, tmp_path / "again", spaces=SPACES)
    assert again.ids == ["0", "1", "2"]
    for column in SPACES:
        expected = unit_norm(table.tensor(column)[[0, 2, 10]])
        assert torch.allclose(again.tensor(column), expected, atol=1e-6)


def test_a_text_export_replaces_a_longer_one_whole(table, tmp_path, monkeypatch):
    folder = export_table(table, tmp_path / "out", "text")
    whole = {file.name: file.read_text() for file in folder.iterdir()}
    with TableWriter(tmp_path / "short", SPACES) as writer:
        embeds = {name: table.tensor(name)[:3].float() for name in SPACES}
        writer.append(["a", "b", "c"], {}, embeds)
    short = EmbeddingTable.open(tmp_path / "short")
    savetxt, calls = np.savetxt, []

    def cut_off(file, values):
        calls.append(file)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        savetxt(file, values)

    with monkeypatch.context() as patched:
        patched.setattr(np, "savetxt", cut_off)
        with pytest.raises(UserError, match="can't be written to: No space left"):
            export_table(short, folder, "text")
    assert {file.name: file.read_text() for file in folder.iterdir()} == whole
    assert import_table(folder, tmp_path / "kept").ids == table.ids
    export_table(short, folder, "text")
    assert import_table(folder, tmp_path / "again").ids == ["a", "b", "c"]
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("prefix", ["", "{}/"])
def test_embeddings_of_clip_retrieval_become_a_table(table, tmp_path, prefix):
    folder = tmp_path / "theirs"
    shards = (0, 9), (9, 12)
    for number, (start, stop) in zip((2, 10), shards, strict=True):
        for stem, column in (("img_emb", "clip_text"), ("text_emb", "clap_text")):
            file = folder / prefix.format(stem) / f"{stem}_{number}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, table.to_numpy(column)[start:stop] * 20)
        names = [f"{place}.jpg" for place in range(start, stop)]
        file = folder / prefix.format("metadata") / f"metadata_{number}.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image_path": names, "caption": names}), file)
    spaces = {
        "clip_image": SPACES["clip_text"].in_modality("image"),
        "clap_text": SPACES["clap_text"],
    }
    again = import_table(folder, tmp_path / "again", spaces=spaces)
    assert again.source("image_path") == [f"{place}.jpg" for place in range(ROWS)]
    for column, ours in (("clip_image", "clip_text"), ("clap_text", "clap_text")):
        assert torch.allclose(again.tensor(column), unit_norm(table.tensor(ours)), atol=2e-3)
    audio = {"clap_audio": SPACES["clap_text"].in_modality("audio")}
    with pytest.raises(UserError, match=r"neither clap_audio\.npy nor audio_emb/audio_emb_0\.npy"):
        import_table(folder, tmp_path / "none", spaces=audio)
    (folder / prefix.format("text_emb") / "text_emb_10.npy").unlink()
    with pytest.raises(UserError, match="lacks part 10 of clap_text, which others have"):
        import_table(folder, tmp_path / "part", spaces=spaces)


def parts_of_clip_retrieval(folder: Path, **rows: dict[str, int]) -> Path:
    """Write vectors and metadata of as many rows as the parts of each kind have, by number."""
    for stem, parts in rows.items():
        (folder / stem).mkdir(parents=True)
        for number, count in parts.items():
            if stem == "metadata":
                table = pa.table({"caption": [f"{number}.{row}" for row in range(count)]})
                pq.write_table(table, folder / stem / f"{stem}_{number}.parquet")
            else:
                np.save(folder / stem / f"{stem}_{number}.npy", np.eye(count, DIM) * 2)
    return folder


@pytest.mark.parametrize(
    ("images", "texts", "metadata", "words"),
    [
        ({"0": 2, "1": 2}, {"0": 2, "2": 2}, {}, "lacks part 2 of clip_image, which others have"),
        ({"0": 2, "1": 2}, {"0": 2, "1": 2}, {"0": 2, "2": 2}, "lacks part 2 of clip_image"),
        ({"0": 2, "1": 2}, {"0": 2, "1": 2}, {"0": 2}, "lacks part 1 of metadata"),
        ({"0": 2}, {"0": 2}, {"1": 2}, "lacks part 1 of clip_image"),
        ({"0": 3, "1": 1}, {"0": 3, "1": 1}, {"0": 1, "1": 3}, "3 in .*img_emb_0.*, 1 in .*meta"),
        ({"0": 3, "1": 1}, {"0": 1, "1": 3}, {}, "3 in .*img_emb_0.*, 1 in .*text_emb_0"),
        ({"0": 1, "00": 1}, {"0": 1}, {}, "img_emb_0.npy are one part"),
    ],
)
def test_parts_of_clip_retrieval_that_do_not_match_are_refused(
    tmp_path, images, texts, metadata, words
):
    folder = parts_of_clip_retrieval(
        tmp_path / "in", img_emb=images, text_emb=texts, metadata=metadata
    )
    spaces = {"clip_image": SPACES["clip_text"].in_modality("image"), **SPACES}
    del spaces["clip_text"]
    with pytest.raises(UserError, match=words):
        import_table(folder, tmp_path / "out", spaces=spaces)
    assert not (tmp_path / "out").exists()


def test_parts_of_clip_retrieval_match_by_their_numbers(tmp_path):
    folder = parts_of_clip_retrieval(
        tmp_path / "in",
        text_emb={str(number): 1 for number in range(11)},
        metadata={f"{number:04}": 1 for number in range(11)},
    )
    again = import_table(folder, tmp_path / "out", spaces={"clap_text": SPACES["clap_text"]})
    assert again.source("caption") == [f"{number:04}.0" for number in range(11)]
    whole = np.concatenate([np.eye(1, DIM)] * 11)
    np.save(folder / "clap_text.npy", whole)  # joined beside metadata in parts
    again = import_table(folder, tmp_path / "whole", spaces={"clap_text": SPACES["clap_text"]})
    assert again.source("caption") == [f"{number:04}.0" for number in range(11)]


@pytest.mark.parametrize("dtype", [">f4", ">f2", "longdouble", "int8", ">u2", "complex64", "f4,f4"])
def test_vectors_of_any_real_numbers_are_imported_and_others_refused(tmp_path, dtype):
    vectors = np.eye(3, DIM).astype(dtype) if dtype != "f4,f4" else np.zeros((3, DIM), dtype)
    np.save(tmp_path / "clap_text.npy", vectors)
    spaces = {"clap_text": SPACES["clap_text"]}
    if dtype in ("complex64", "f4,f4"):
        with pytest.raises(UserError, match=r"Expected rows of numbers in .*clap_text\.npy, got"):
            import_table(tmp_path, tmp_path / "out", spaces=spaces)
    else:
        again = import_table(tmp_path, tmp_path / "out", spaces=spaces)
        assert torch.equal(again.tensor("clap_text"), torch.eye(3, DIM))


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path):
    (tmp_path / "clap_text.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"clap_text\.npy is a Git LFS pointer"):
        import_table(tmp_path, tmp_path / "out", spaces={"clap_text": SPACES["clap_text"]})


def test_damaged_and_foreign_files_are_reported_in_one_line(table, tmp_path):
    folder = export_table(table, tmp_path / "out", "text")
    (folder / "muestra_3.txt").write_text("CLIP Embedding:\nnonsense\n")
    with pytest.raises(UserError, match=r"muestra_3\.txt holds no pair"):
        import_table(folder, tmp_path / "again")
    (folder / "muestra_3.txt").unlink()
    with pytest.raises(UserError, match=f"holds {ROWS - 1} vectors, .+ has {ROWS} rows"):
        import_table(folder, tmp_path / "again2")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        export_table(table, folder, "text")
    with pytest.raises(UserError, match="Expected format to be one of"):
        export_table(table, tmp_path / "no", "pickle")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="has no CLIP column 'clip_image'"):
        export_table(table, tmp_path / "no", "csv", clip="clip_image")


def test_rows_whose_text_is_not_utf8_are_reported_in_one_line(table, tmp_path):
    folder = export_table(table, tmp_path / "out", "csv")
    (file,) = tmp_path.glob("**/*rows.parquet")
    rows = pq.read_table(file)
    damaged = pa.array([b"\xff"] * len(rows)).view(pa.string())
    pq.write_table(rows.set_column(1, "caption", damaged), file)
    with pytest.raises(UserError, match=r"rows\.parquet can't be read") as error:
        import_table(folder, tmp_path / "again")
    assert "\n" not in str(error.value)
