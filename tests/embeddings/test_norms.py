"""Norm reports of tables whose statistics are known."""

import contextlib
import json
import math
import re
import runpy
import sys
import tracemalloc
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.norms.measure import NormReport, measure_norms
from clip2clap.embeddings.norms.report import verdict, write_norm_report
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

Run = Callable[..., tuple[int, str, str]]


def space(dim: int, *, family: Any = "clip", modality: Any = "text", unit: bool = True) -> Any:
    return EmbeddingSpace(family, f"a/{family}", modality, dim, unit, f"{family} weights")


def write(
    folder: Path,
    columns: dict[str, np.ndarray],
    *,
    unit: bool = True,
    raw: dict[str, Any] | None = None,
    dtype: Any = "float32",
) -> EmbeddingTable:
    """Write a table whose columns are named after their spaces."""
    rows = len(next(iter(columns.values())))
    spaces = {}
    for name, vectors in columns.items():
        family, modality = name.split("_")
        spaces[name] = space(vectors.shape[1], family=family, modality=modality, unit=unit)
    sources = {f"{name}_norm": list(norms) for name, norms in (raw or {}).items()}
    with TableWriter(folder, spaces, dtype=dtype) as writer:
        embeds = {name: torch.from_numpy(vectors).float() for name, vectors in columns.items()}
        writer.append([f"row {number}" for number in range(rows)], sources, embeds)
    return EmbeddingTable.open(folder)


def random_unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return unit_norm(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))).numpy()


def test_norms_of_one_to_a_hundred(tmp_path: Path) -> None:
    vectors = np.zeros((100, 4), np.float32)
    vectors[:, 2] = np.arange(1, 101)
    report = measure_norms(write(tmp_path, {"clip_text": vectors}, unit=False), bins=10)
    column = report.columns["clip_text"]
    norms = column.stored
    assert norms.mean == pytest.approx(50.5)
    assert norms.standard_deviation == pytest.approx(math.sqrt((100**2 - 1) / 12))
    assert (norms.minimum, norms.maximum) == (1, 100)
    assert norms.quantiles["0.5"] == pytest.approx(50.5)
    assert norms.quantiles["0.25"] == pytest.approx(25.75)
    assert norms.quantiles["0.99"] == pytest.approx(99.01)
    assert norms.share_of_unit_norm == 0.01
    assert norms.counts == [10] * 10
    assert norms.edges == pytest.approx(np.linspace(1, 100, 11))
    assert column.dimension_means == pytest.approx([0, 0, 50.5, 0])
    assert column.dimension_standard_deviations == pytest.approx([0, 0, math.sqrt(833.25), 0])
    assert column.mean_resultant_length == pytest.approx(1)
    assert column.raw is None
    assert report.rows == 100


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    dim=st.integers(1, 9),
    offset=st.sampled_from([0.0, 1000.0]),
)
def test_statistics_equal_numpys_over_any_number_of_shards(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], dim: int, offset: float
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    vectors = np.random.default_rng(0).normal(offset, 1, (sum(sizes), dim)).astype(np.float32)
    # A run that breaks off leaves its shards as they are.
    with (
        contextlib.suppress(RuntimeError),
        TableWriter(
            folder, {"clip_text": space(dim, unit=False)}, dtype="float32", rows_per_shard=1
        ) as writer,
    ):
        start = 0
        for size in sizes:
            part = vectors[start : start + size]
            ids = [str(number) for number in range(start, start + size)]
            writer.append(ids, {}, {"clip_text": torch.from_numpy(part)})
            start += size
        raise RuntimeError("broken off")
    column = measure_norms(EmbeddingTable.open(folder)).columns["clip_text"]
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    assert column.stored.mean == pytest.approx(norms.mean(), rel=1e-6)
    assert column.stored.quantiles["0.05"] == pytest.approx(np.quantile(norms, 0.05), rel=1e-6)
    assert sum(column.stored.counts) == len(vectors)
    assert column.dimension_means == pytest.approx(exact.mean(axis=0), rel=1e-6, abs=1e-7)
    deviations = pytest.approx(exact.std(axis=0), rel=1e-4, abs=1e-6)
    assert column.dimension_standard_deviations == deviations
    directions = exact / norms[:, None]
    expected = np.linalg.norm(directions.mean(axis=0))
    assert column.mean_resultant_length == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_unit_norm_vectors_count_as_such_in_either_dtype(tmp_path: Path, dtype: str) -> None:
    report = measure_norms(write(tmp_path, {"clip_text": random_unit(500, 512)}, dtype=dtype))
    column = report.columns["clip_text"]
    assert column.stored.share_of_unit_norm == 1
    assert column.stored.mean == pytest.approx(1, abs=1e-4)
    assert column.dtype == dtype
    assert sum(column.stored.counts) == 500


@pytest.mark.parametrize(
    ("scale", "words"),
    [(7.0, "normalize the encoder's output"), (1.0, "the encoder's output is unit norm")],
)
def test_raw_norms_tell_whether_to_normalize(tmp_path: Path, scale: float, words: str) -> None:
    vectors = random_unit(4, 8)
    raw = np.full(4, scale, np.float32)
    report = measure_norms(write(tmp_path, {"clip_text": vectors}, raw={"clip_text": raw}))
    column = report.columns["clip_text"]
    assert column.raw is not None
    assert column.raw.mean == pytest.approx(scale)
    assert column.raw.standard_deviation == 0
    assert sum(column.raw.counts) == 4
    assert column.raw.edges[0] < scale < column.raw.edges[-1]
    assert verdict(column) == words


@pytest.mark.parametrize(
    ("norm", "words"),
    [(None, "clip_text_norm, got double with 1 rows empty"), (math.nan, "clip_text_norm .* row 1")],
)
def test_raw_norms_that_are_none_are_refused(
    tmp_path: Path, norm: float | None, words: str
) -> None:
    table = write(tmp_path, {"clip_text": random_unit(2, 8)}, raw={"clip_text": [1.0, norm]})
    with pytest.raises(TableError, match=words):
        measure_norms(table)


def test_the_modality_gap_is_the_angle_between_the_means(tmp_path: Path) -> None:
    spread, turn = math.radians(20), math.radians(50)
    angles = np.array([-spread, spread])
    images = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    texts = np.stack([np.cos(angles + turn), np.sin(angles + turn), 0 * angles], axis=1)
    sounds = random_unit(2, 3)
    columns = {"clip_image": images, "clip_text": texts, "clap_audio": sounds}
    report = measure_norms(write(tmp_path, columns))
    gap = report.gaps[0]
    assert gap.columns == ("clip_image", "clip_text")
    assert gap.same_model
    assert gap.angle == pytest.approx(50, abs=1e-3)
    length = math.cos(spread)
    assert gap.distance == pytest.approx(2 * length * math.sin(turn / 2), abs=1e-5)
    assert report.columns["clip_image"].mean_resultant_length == pytest.approx(length)
    assert [(g.columns, g.same_model) for g in report.gaps[1:]] == [
        (("clip_image", "clap_audio"), False),
        (("clip_text", "clap_audio"), False),
    ]


def test_the_distribution_gap_is_what_centering_leaves(tmp_path: Path) -> None:
    images = random_unit(300, 8)
    other, turned = np.roll(images, 1, axis=0), images[:, ::-1].copy()
    columns = {"clip_image": images, "clip_text": turned}
    (gap,) = measure_norms(write(tmp_path / "turned", columns)).gaps
    centered = [side - side.mean(axis=0) for side in (images, turned)]
    expected = np.sqrt(np.square(centered[0] - centered[1]).sum(axis=1).mean())
    assert gap.distribution_distance == pytest.approx(expected, abs=1e-4)
    # The two parts are all of the distance between the vectors of a row.
    whole = np.square(images - turned).sum(axis=1).mean()
    parts = gap.distance**2 + gap.distribution_distance**2
    assert parts == pytest.approx(whole, abs=1e-4)
    # A table whose rows are the same up to an offset has none; unrelated rows have the most.
    columns = {"clip_image": images, "clip_text": images, "clip_audio": other}
    same, unrelated, _ = measure_norms(write(tmp_path / "same", columns)).gaps
    assert same.distribution_distance == pytest.approx(0, abs=1e-6)
    assert unrelated.distribution_distance == pytest.approx(2**0.5, abs=0.1)


def test_a_mean_of_zero_has_no_angle_and_other_dimensions_no_gap(tmp_path: Path) -> None:
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    columns = {"clip_image": opposite, "clip_text": opposite, "clap_text": random_unit(2, 3)}
    (gap,) = measure_norms(write(tmp_path, columns)).gaps
    assert gap.columns == ("clip_image", "clip_text")
    assert gap.angle is None
    assert gap.distance == 0


def groups_by_comparing_all(vectors: np.ndarray, cosine: float) -> set[frozenset[int]]:
    similar = vectors @ vectors.T >= cosine
    groups: list[set[int]] = []
    for row in np.flatnonzero(similar.sum(axis=1) > 1):
        group: set[int] = {int(row), *np.flatnonzero(similar[row]).tolist()}
        linked = [known for known in groups if known & group]
        groups = [known for known in groups if not known & group] + [group.union(*linked)]
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("cone", [0.0, 3.0])
def test_near_duplicates_are_those_that_comparing_all_rows_finds(
    tmp_path: Path, cone: float
) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3000, 64))
    vectors[:, 0] += cone * 8  # a narrow cone: all similarities lie near 0.9
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for copy in range(30):  # pairs, threes and fours; exact copies, and others with a little noise
        for _ in range(1 + copy % 3):
            noise = random.normal(size=64) * (0.0 if copy < 10 else 0.002)
            near = vectors[copy] + noise
            vectors = np.concatenate([vectors, near[None] / np.linalg.norm(near)])
    vectors = vectors[random.permutation(len(vectors))].astype(np.float32)
    expected = groups_by_comparing_all(vectors, 0.999)
    assert len(expected) == 30
    found = measure_norms(write(tmp_path, {"clip_text": vectors})).columns["clip_text"]
    duplicates = found.near_duplicates
    assert duplicates.groups == 30
    assert duplicates.rows == sum(len(group) for group in expected)
    by_size = sorted(expected, key=len, reverse=True)
    assert [group["rows"] for group in duplicates.largest] == [len(g) for g in by_size[:20]]
    for group in duplicates.largest:
        assert frozenset(int(name.split()[1]) for name in group["ids"]) in expected


def test_rows_that_are_all_the_same_are_one_group(tmp_path: Path) -> None:
    vectors = np.repeat(random_unit(1, 16), 5000, axis=0)
    found = measure_norms(write(tmp_path, {"clip_text": vectors})).columns["clip_text"]
    assert (found.near_duplicates.rows, found.near_duplicates.groups) == (5000, 1)
    assert found.near_duplicates.largest == [
        {"rows": 5000, "ids": [f"row {number}" for number in range(10)]}
    ]


def test_a_single_row_and_rows_of_zeros_are_no_duplicates(tmp_path: Path) -> None:
    single = measure_norms(write(tmp_path / "one", {"clip_text": random_unit(1, 8)}))
    assert single.columns["clip_text"].near_duplicates.rows == 0
    zeros = np.zeros((3, 8), np.float32)
    report = measure_norms(write(tmp_path / "zeros", {"clip_text": zeros}, unit=False))
    assert report.columns["clip_text"].near_duplicates.rows == 0
    assert report.columns["clip_text"].stored.mean == 0


def test_memory_hardly_grows_with_the_rows(tmp_path: Path) -> None:
    peaks = {}
    for rows in (5_000, 60_000):
        table = write(tmp_path / str(rows), {"clip_text": random_unit(rows, 128)})
        tracemalloc.start()
        measure_norms(table)
        peaks[rows] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    a_row_more = (peaks[60_000] - peaks[5_000]) / 55_000
    assert a_row_more < 100  # bytes; its vector has 512


def test_progress_goes_up_to_one(tmp_path: Path) -> None:
    table = write(tmp_path, {"clip_text": random_unit(9, 8), "clap_text": random_unit(9, 4)})
    shares: list[float] = []
    measure_norms(table, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_what_can_not_be_measured_is_refused(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "empty", {"clip_text": space(4)}):
        pass
    with pytest.raises(TableError, match="holds no rows"):
        measure_norms(EmbeddingTable.open(tmp_path / "empty"))
    table = write(tmp_path / "table", {"clip_text": random_unit(2, 4)})
    for bins in (0, 2_000_000_000):
        with pytest.raises(UserError, match=rf"bins to be from 1 to 10,000, got {bins}"):
            measure_norms(table, bins=bins)
    for cosine in (0.5, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"near_duplicate_cosine from 0\.9 to below 1"):
            measure_norms(table, near_duplicate_cosine=cosine)


class Page(HTMLParser):
    """What a page shows and what it would load."""

    def __init__(self, text: str):
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def report(tmp_path: Path) -> NormReport:
    vectors = random_unit(50, 8)
    columns = {
        "clip_image": np.concatenate([vectors, vectors[:2]]),
        "clap_text": random_unit(52, 8),
    }
    raw = {"clip_image": np.linspace(5, 9, 52, dtype=np.float32)}
    return measure_norms(write(tmp_path / "a <b> & c", columns, raw=raw))


def test_the_files_hold_the_report_and_need_nothing_else(
    tmp_path: Path, report: NormReport
) -> None:
    paths = write_norm_report(report, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "norms.html",
        "norms.json",
        "norms.png",
    ]
    stored = json.loads(paths["json"].read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["columns"]["clip_image"]["raw"]["maximum"] == 9
    with Image.open(paths["png"]) as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    page = Page(paths["html"].read_text())
    assert len(page.links) == 1
    assert page.links[0].startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    assert "Norms of a <b> & c" in page.text
    assert "clip_image: 4 rows in 2 groups" in page.text
    assert "row 0, row 50" in page.text
    assert "normalize the encoder's output" in page.text
    assert not re.search(r"https?://|url\(|@import", paths["html"].read_text())


def test_a_folder_that_can_not_be_written_to_is_named(tmp_path: Path, report: NormReport) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file"):
        write_norm_report(report, tmp_path / "file")


def test_the_command_writes_beside_the_table_and_shows_a_small_one(
    tmp_path: Path, run: Run
) -> None:
    columns = {"clip_image": random_unit(20, 8), "clip_text": random_unit(20, 8)}
    write(tmp_path / "pairs", columns, raw={"clip_image": np.full(20, 3.0, np.float32)})
    status, shown, complaints = run("norms", tmp_path / "pairs")
    assert (status, complaints) == (0, "")
    assert re.search(r"clip_image +1 ± \S+ +100.0% +3 ± 0 +0.0% +0\n", shown)
    assert re.search(r"clip_text +1 ± \S+ +100.0% +0\n", shown)
    assert "clip_image: normalize the encoder's output" in shown
    assert "clip_text: raw norms not stored" in shown
    assert "clip_image and clip_text: angle between means" in shown
    assert (tmp_path / "pairs-norms" / "norms.html").is_file()
    assert len(EmbeddingTable.open(tmp_path / "pairs")) == 20


def test_the_command_gives_json(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "pairs", {"clip_text": random_unit(20, 8)})
    status, shown, _ = run("norms", tmp_path / "pairs", "-o", tmp_path / "out", "--json")
    assert status == 0
    assert json.loads(shown)["results"] == json.loads((tmp_path / "out" / "norms.json").read_text())


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        ("absent", (), "TABLE: {}/absent does not exist."),
        ("empty", (), "{}/empty holds no table of embeddings (no state.json)."),
        ("pairs", ("--bins", "0"), "bins"),
        ("pairs", ("--cosine", "2"), "near_duplicate"),
    ],
)
def test_the_command_names_a_mistake_in_a_line(
    tmp_path: Path, run: Run, table: str, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "pairs", {"clip_text": random_unit(20, 8)})
    status, shown, complaints = run("norms", tmp_path / table, *options)
    assert (status, shown) == (2, "")
    assert words.format(tmp_path) in complaints
    assert complaints.count("\n") == 1


def test_histogram_reports_the_norms_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "pairs", {"clip_text": random_unit(20, 8)})
    script = Path(__file__).parents[2] / "prior_steps" / "audiocaps" / "histogram.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "pairs")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert "clip_text" in capfd.readouterr().out
    assert (tmp_path / "pairs-norms" / "norms.png").is_file()
