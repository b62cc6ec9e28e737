"""From a data set to a table: every source, every way to be stopped, with tiny real models."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clip2clap.core.actors import RayConfig
from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.audiocaps import AudioCaps
from clip2clap.embeddings.datasets.tables import TableFiles
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.extraction import pipeline
from clip2clap.embeddings.extraction.pipeline import ExtractionReport, extract
from clip2clap.embeddings.extraction.plan import EncoderPlan
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.embeddings.table import writer
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

from .sources import CAPTIONS, close, many_captions, write_audiocaps, write_clip_with_both_towers

# Captions: AudioCaps


def test_every_caption_becomes_a_row_with_its_text_intact(plan, clip, clap, tmp_path):
    captions = [*CAPTIONS, "", "   "]
    source = AudioCaps(write_audiocaps(tmp_path / "val.csv", captions))
    report = extract(source, tmp_path / "table", plan("clip_text", "clap_text"), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.source("caption") == CAPTIONS
    assert table.ids == [str(900 - n) for n in range(5)]
    assert table.source("item") == [f"clip{n}_30" for n in range(5)]
    assert table.source("split") == ["val"] * 5
    assert table.failures() == {"895": "empty caption", "894": "empty caption"}
    assert (report.rows, report.failures, report.new_rows) == (5, 2, 5)
    for column, encoder in (
        ("clip_text", ClipEncoder.from_pretrained(clip)),
        ("clap_text", ClapEncoder.from_pretrained(clap)),
    ):
        assert close(table.tensor(column), encoder.encode_text(CAPTIONS))
        raw = encoder.encode_text(CAPTIONS, normalize=False).norm(dim=1)
        assert close(torch.tensor(table.source(f"{column}_norm")), raw)
        assert table.spaces[column] == encoder.space("text")


def test_a_caption_embeds_alike_in_any_batch_and_padded_to_the_full_length(plan, clip, tmp_path):
    source = AudioCaps(write_audiocaps(tmp_path / "val.csv", many_captions(60)))
    vectors = []
    for size in (1, 7, 64):
        folder = tmp_path / str(size)
        extract(source, folder, plan("clip_text", batch_size=size), dtype="float32")
        vectors.append(EmbeddingTable.open(folder).tensor("clip_text"))
    assert close(vectors[0], vectors[1])
    assert close(vectors[0], vectors[2])
    encoder = ClipEncoder.from_pretrained(clip)
    ids = encoder.backend.tokenize(many_captions(60))
    model: Any = encoder.backend.model
    end = model.config.text_config.eos_token_id
    full = torch.full((60, 77), end)
    for row, tokens in enumerate(ids):
        full[row, : len(tokens)] = torch.tensor(tokens)
    mask = torch.tensor([[1] * len(tokens) + [0] * (77 - len(tokens)) for tokens in ids])
    with torch.no_grad():
        padded = encoder("text", {"input_ids": full, "attention_mask": mask})
    assert close(vectors[0], torch.nn.functional.normalize(padded, dim=-1))


def test_bytes_that_are_no_utf_8_cost_one_row(plan, tmp_path):
    lines = ["audiocap_id,youtube_id,start_time,caption", "1,a,30,Rain", "2,b,30,Caf\u00e9"]
    lines += ["3\u00e9,c,30,Wind", "4,d\u00e9,30,Waves", "5,e,30,Birds"]
    (tmp_path / "old.csv").write_bytes("\n".join(lines).encode("latin-1"))
    for limit in (3, None):
        source = AudioCaps(tmp_path / "old.csv")
        extract(source, tmp_path / "table", plan("clip_text"), limit=limit)
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.source("caption") == ["Rain", "Wind", "Birds"]
    assert table.ids == ["1", "3\\udce9", "5"]
    assert table.failures() == {
        "2": "its caption is not valid UTF-8",
        "4": "its youtube_id is not valid UTF-8",
    }


def test_a_second_encoder_is_joined_by_id(plan, tmp_path):
    write_audiocaps(tmp_path / "train.csv", [*CAPTIONS, ""])
    source = AudioCaps(tmp_path / "train.csv")
    extract(source, tmp_path / "clip", plan("clip_text"), dtype="float32")
    extract(source, tmp_path / "whole", plan("clip_text", "clap_text"), dtype="float32")
    with pytest.raises(UserError, match="has clip_text already"):
        extract(source, tmp_path / "no", plan("clip_text"), pair_with=tmp_path / "clip")
    pair = partial(extract, pair_with=tmp_path / "clip", dtype="float32")
    pair(source, tmp_path / "both", plan("clap_text"))
    both, whole = (EmbeddingTable.open(tmp_path / name) for name in ("both", "whole"))
    assert both.ids == whole.ids
    for column in ("clip_text", "clap_text"):
        assert torch.equal(both.tensor(column), whole.tensor(column))
        assert both.source(f"{column}_norm") == whole.source(f"{column}_norm")
    assert both.failures() == whole.failures()
    # In another order, with a caption changed and a row that the first table lacks.
    write_audiocaps(tmp_path / "test.csv", [CAPTIONS[0], "other", *CAPTIONS[2:], "one", "more"])
    pair(AudioCaps(tmp_path / "test.csv"), tmp_path / "changed", plan("clap_text"))
    changed = EmbeddingTable.open(tmp_path / "changed")
    assert changed.ids == ["900", "898", "897", "896"]
    assert torch.equal(changed.tensor("clip_text"), whole.tensor("clip_text")[[0, 2, 3, 4]])
    assert "another caption" in changed.failures()["899"]
    assert "not in" in changed.failures()["894"]


# Stopped and started again


def dying_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill this process with SIGKILL when it comes to the given one of its steps.

    Steps are what reaches the disk and what stands between: an embedded batch, an appended one, a
    file written, synced, or put in place.
    """
    left = [step]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(pipeline, "embed_group", counted(pipeline.embed_group))
    monkeypatch.setattr(TableWriter, "append", counted(TableWriter.append))
    monkeypatch.setattr(writer, "write_shard", counted(writer.write_shard))


def small_steps(monkeypatch: pytest.MonkeyPatch, plan: EncoderPlan) -> None:
    """Write after every few rows, and load the models once for all processes."""
    encoders, spaces = plan.load(), plan.spaces()
    monkeypatch.setattr(EncoderPlan, "load", lambda self: encoders)
    monkeypatch.setattr(EncoderPlan, "spaces", lambda self: spaces)


def same_tables(first: Path, second: Path) -> None:
    one, two = EmbeddingTable.open(first), EmbeddingTable.open(second)
    assert one.ids == two.ids
    assert one.sources == two.sources
    assert all(one.source(name) == two.source(name) for name in one.sources)
    for column in one.spaces:
        assert torch.equal(one.tensor(column), two.tensor(column))
    assert list(one.failures().items()) == list(two.failures().items())
    kept, again = (pq.read_table(folder / "failures.parquet") for folder in (first, second))
    assert kept.equals(again)


def test_a_run_killed_at_twenty_random_moments_ends_as_one_that_was_not(
    plan, tmp_path, monkeypatch, in_a_fork
):
    captions = many_captions(800)
    captions[10::37] = [""] * len(captions[10::37])
    source = AudioCaps(write_audiocaps(tmp_path / "train.csv", captions))
    pair = plan("clip_text", "clap_text", batch_size=2)
    small_steps(monkeypatch, pair)
    run = partial(extract, source, plan=pair, dtype="float32", rows_per_shard=40)
    run(tmp_path / "whole")
    random = Random(0)

    def run_until(step: int) -> None:
        dying_at(step, monkeypatch)
        run(tmp_path / "killed")

    for _ in range(20):
        ended = in_a_fork(run_until, random.randint(1, 20))
        assert os.WIFSIGNALED(ended)
        assert os.WTERMSIG(ended) == signal.SIGKILL
    before = len(EmbeddingTable.open(tmp_path / "killed"))
    report = run(tmp_path / "killed")
    assert before
    assert report.new_rows == report.rows - before
    same_tables(tmp_path / "whole", tmp_path / "killed")
    assert len(list((tmp_path / "killed").glob("data-*"))) == 1


def test_a_run_killed_at_each_step_of_its_end_loses_and_doubles_nothing(
    plan, tmp_path, monkeypatch, in_a_fork
):
    captions = ["", *many_captions(45)]
    source = AudioCaps(write_audiocaps(tmp_path / "train.csv", captions))
    one = plan("clip_text", batch_size=2)
    small_steps(monkeypatch, one)
    run = partial(extract, source, plan=one, dtype="float32", rows_per_shard=40)
    run(tmp_path / "whole")

    def run_until(step: int, folder: Path) -> None:
        dying_at(step, monkeypatch)
        run(folder)

    step, ended = 0, 1
    while ended:
        step += 1
        folder = tmp_path / f"killed-{step}"
        ended = in_a_fork(run_until, step, folder)
        if ended:
            run(folder)
        same_tables(tmp_path / "whole", folder)
    assert step > 20


def test_the_second_process_on_one_output_is_refused(plan, tmp_path, start_fork):
    source = AudioCaps(write_audiocaps(tmp_path / "train.csv", CAPTIONS))
    reading, writing = os.pipe()
    done, finish = os.pipe()

    def hold_the_lock() -> None:
        with TableWriter(tmp_path / "table", plan("clip_text").spaces()):
            os.write(writing, b"locked")
            os.read(done, 1)
            os._exit(0)

    child = start_fork(hold_the_lock)
    os.read(reading, 6)
    with pytest.raises(TableError, match="Another run is writing to"):
        extract(source, tmp_path / "table", plan("clip_text"))
    os.write(finish, b"x")
    os.waitpid(child, 0)
    extract(source, tmp_path / "table", plan("clip_text"))
    assert len(EmbeddingTable.open(tmp_path / "table")) == 5


def test_a_changed_encoder_or_changed_arguments_are_refused_and_lose_nothing(plan, clap, tmp_path):
    source = AudioCaps(write_audiocaps(tmp_path / "train.csv", CAPTIONS))
    folder = tmp_path / "table"
    extract(source, folder, plan("clip_text"), limit=3)
    other = write_clip_with_both_towers(tmp_path / "other", seed=1)
    with pytest.raises(SpaceMismatchError, match="Two encoders are two spaces"):
        extract(source, folder, EncoderPlan(("clip_text",), clip=other))
    with pytest.raises(TableError, match=r"weights was 'float32' and is now 'bfloat16'"):
        extract(source, folder, plan("clip_text", weights_dtype=torch.bfloat16))
    with pytest.raises(TableError, match="holds float16"):
        extract(source, folder, plan("clip_text"), dtype="float32")
    with pytest.raises(TableError, match="holds embeddings of clip_text, not"):
        extract(source, folder, plan("clap_text"))
    moved = AudioCaps(write_audiocaps(tmp_path / "val.csv", CAPTIONS))
    with pytest.raises(TableError, match=r"files was \['train.csv'\] and is now \['val.csv'\]"):
        extract(moved, folder, plan("clip_text"))
    lines = (tmp_path / "train.csv").read_text("utf-8")
    (tmp_path / "train.csv").write_text(lines.replace("\n899,", "\n7,"), "utf-8")
    with pytest.raises(TableError, match="made from other rows: it lacks '7'"):
        extract(source, folder, plan("clip_text"))
    (tmp_path / "train.csv").write_text(lines, "utf-8")
    assert EmbeddingTable.open(folder).ids == ["900", "899", "898"]
    report = extract(source, folder, plan("clip_text"))
    assert (report.rows, report.new_rows) == (5, 2)
    assert extract(source, folder, plan("clip_text")).new_rows == 0


def test_bytes_that_are_no_image_are_not_numbered_in_their_reason(plan, tmp_path):
    table = pa.table({"caption": ["a", "b"], "image": [b"no image", b"none either"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    source = TableFiles((tmp_path / "rows.parquet",), frozenset({"text", "image"}))
    extract(source, tmp_path / "table", plan("clip_image", "clap_text"))
    reasons = EmbeddingTable.open(tmp_path / "table").failures().values()
    assert [reason.startswith("the image is") for reason in reasons] == [True, True]


def test_an_id_that_comes_twice_is_a_failure_the_second_time(plan, tmp_path):
    (tmp_path / "own.csv").write_text("id,caption\na,dog\nb,\na,cat\nb,bird\nc,rain\n")
    source = TableFiles((tmp_path / "own.csv",), frozenset({"text"}))
    for limit in (2, None):  # in one run, and across two
        extract(source, tmp_path / "table", plan("clip_text"), limit=limit)
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.ids == ["a", "c"]
    assert next(iter(table.failures().values())) == "empty caption"
    assert [r for r in table.failures().values() if "repeated" in r] == [
        "the id 'a' is repeated",
        "the id 'b' is repeated",
    ]
    assert extract(source, tmp_path / "table", plan("clip_text")).new_rows == 0


# Ray


def test_where_ray_is_missing_it_is_named(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    source = AudioCaps(write_audiocaps(tmp_path / "val.csv", CAPTIONS))
    with pytest.raises(UserError, match=r"pip install 'clip2clap\[ray\]'"):
        extract(source, tmp_path / "table", plan("clip_text"), ray=RayConfig(actors=2))


@pytest.fixture
def on_ray(plan, media, tmp_path, monkeypatch) -> Callable[..., ExtractionReport]:
    pytest.importorskip("ray", reason="needs clip2clap[ray]")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    names = ("a.png", "b.png", "broken.jpg")
    lines = [f"{text},{names[n % 3]}" for n, text in enumerate(many_captions(60))]
    (tmp_path / "rows.csv").write_text("\n".join(["caption,image", *lines]) + "\n")
    source = TableFiles((tmp_path / "rows.csv",), frozenset({"text", "image"}))
    for file in media.iterdir():
        if file.is_file():
            file.rename(tmp_path / file.name)
    return partial(
        extract,
        source,
        plan=plan("clip_image", "clap_text", batch_size=4),
        dtype="float32",
    )


def compare(here: Path, there: Path) -> None:
    one, two = EmbeddingTable.open(here), EmbeddingTable.open(there)
    assert one.ids == two.ids
    assert one.source("caption") == two.source("caption")
    for column in one.spaces:
        assert close(one.tensor(column), two.tensor(column))
    assert one.failures() == two.failures()


def test_ray_gives_the_same_table_row_by_row(on_ray, tmp_path):
    on_ray(folder=tmp_path / "here")
    on_ray(folder=tmp_path / "ray", ray=RayConfig(actors=2), limit=30)
    on_ray(folder=tmp_path / "ray", ray=RayConfig(actors=2))  # goes on where it stopped
    compare(tmp_path / "here", tmp_path / "ray")


def test_an_actor_killed_half_way_costs_no_row(on_ray, tmp_path):
    import psutil

    on_ray(folder=tmp_path / "here")
    killed: list[int] = []

    def kill_an_actor(rows: int, failures: int) -> None:
        if killed or rows + failures < 8:
            return
        for process in psutil.Process().children(recursive=True):
            if "_Embedder" in " ".join(process.cmdline()):
                killed.append(process.pid)
                process.kill()
                return

    on_ray(folder=tmp_path / "ray", ray=RayConfig(actors=2), on_progress=kill_an_actor)
    assert killed
    compare(tmp_path / "here", tmp_path / "ray")
