"""From a data set to a table: every source, every way to be stopped, with tiny real models."""

import csv
import gzip
import io
import json
import os
import signal
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.audiocaps import AudioCaps
from clip2clap.embeddings.datasets.conceptual_captions import ConceptualCaptions
from clip2clap.embeddings.datasets.folder import Folder
from clip2clap.embeddings.datasets.hub import HubDataset
from clip2clap.embeddings.datasets.published import published_files
from clip2clap.embeddings.datasets.registry import open_source
from clip2clap.embeddings.datasets.tables import ColumnNames, TableFile
from clip2clap.embeddings.datasets.webdataset import WebDataset
from clip2clap.embeddings.datasets.wit import Wit
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.extraction import pipeline
from clip2clap.embeddings.extraction.pipeline import ExtractionReport, extract
from clip2clap.embeddings.extraction.plan import PAIRS, EncoderPlan, RayConfig
from clip2clap.embeddings.space import Modality, SpaceMismatchError
from clip2clap.embeddings.table import writer
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

DATA = Path(__file__).parents[3] / "shared" / "data"
CAPTIONS = [
    "A woman talks nearby as water pours",
    'Rustling, ducks quack, and a man says "hello"',
    "It\u2019s raining while a d\u00f6g barks",
    "Rain",
    "Multiple clanging and clanking sounds, then a long silence before a train goes by",
]
WIT_HEADER = [
    *("language", "page_url", "image_url", "page_title", "section_title"),
    *("hierarchical_section_title", "caption_reference_description"),
    *("caption_attribution_description", "caption_alt_text_description", "mime_type"),
    *("original_height", "original_width", "is_main_image", "attribution_passes_lang_id"),
    *("page_changed_recently", "context_page_description", "context_section_description"),
]


def write_clip_with_both_towers(folder: Path, seed: int = 0) -> str:
    """Write a tiny CLIP that sees pictures and reads letters."""
    torch.manual_seed(seed)
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
    }
    text = CLIPTextConfig(vocab_size=len(words), eos_token_id=len(words) - 1, **sizes)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return write_clip_with_both_towers(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def clap(musicldm_folder) -> str:
    return str(musicldm_folder)


@pytest.fixture(scope="module")
def plan(clip, clap) -> Callable[..., EncoderPlan]:
    return lambda *columns, **options: EncoderPlan(columns, clip=clip, clap=clap, **options)


def write_audiocaps(path: Path, captions: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        writer.writerows([str(900 - n), f"clip{n}", "30", c] for n, c in enumerate(captions))
    return path


def many_captions(count: int) -> list[str]:
    random = Random(1)
    words = ["a", "dog", "barks", "while", "rain", "falls", "on", "an", "old", "train", "station"]
    return [" ".join(random.choices(words, k=random.randint(1, 12))) for _ in range(count)]


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def sound(seed: int, seconds: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal(int(16_000 * seconds)) * 0.1).astype(np.float32)


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first.float(), second.float(), atol=1e-5)


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


@pytest.mark.skipif(not (DATA / "audiocaps").is_dir(), reason="needs the published files")
@pytest.mark.parametrize(("split", "rows"), [("train", 49_838), ("val", 2_475), ("test", 4_875)])
def test_every_published_row_of_audiocaps_goes_through(split, rows):
    (file,) = published_files("audiocaps", split, DATA / "audiocaps")
    source = open_source([file], wanted=frozenset({"text"}))
    read = list(source)
    assert len(read) == len({row.id for row in read}) == rows
    with file.open(encoding="utf-8", newline="") as lines:
        expected = [record["caption"] for record in csv.DictReader(lines)]
    assert [row.content["text"] for row in read] == expected
    assert all(row.problem is None and row.columns["split"] == split for row in read)


@pytest.mark.skipif(not (DATA / "conceptual_captions").is_dir(), reason="needs the published file")
def test_every_published_row_of_conceptual_captions_goes_through():
    (file,) = published_files("conceptual-captions", "val", DATA / "conceptual_captions")
    source = open_source([file], wanted=frozenset({"text", "image"}))
    assert isinstance(source, ConceptualCaptions)
    read = list(source)
    lines = file.read_text("utf-8").split("\n")[:-1]
    assert [f"{r.columns['caption']}\t{r.columns['url']}" for r in read] == lines
    assert len({row.id for row in read}) == len(lines)
    assert {row.columns["split"] for row in read} == {"val"}


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


def test_an_id_that_comes_twice_is_a_failure_the_second_time(plan, tmp_path):
    (tmp_path / "own.csv").write_text("id,caption\na,dog\nb,\na,cat\nb,bird\nc,rain\n")
    source = TableFile(tmp_path / "own.csv", frozenset({"text"}))
    for limit in (2, None):  # in one run, and across two
        extract(source, tmp_path / "table", plan("clip_text"), limit=limit)
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.ids == ["a", "c"]
    assert next(iter(table.failures().values())) == "empty caption"
    assert [r for r in table.failures().values() if "come before" in r] == [
        "the id 'a' is repeated",
        "the id 'b' is repeated",
    ]
    assert extract(source, tmp_path / "table", plan("clip_text")).new_rows == 0


# Pictures and sounds


@pytest.fixture
def media(tmp_path) -> Path:
    """Three pictures, of which one is damaged, with sounds and captions beside them."""
    folder = tmp_path / "media"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b", "a", "more/c")):
        picture(number).save(folder / f"{name}.png")
        soundfile.write(folder / f"{name}.wav", sound(number), 16_000)
        (folder / f"{name}.txt").write_text(CAPTIONS[number], "utf-8")
    (folder / "broken.jpg").write_bytes(png(0)[:100])
    soundfile.write(folder / "broken.wav", sound(9), 16_000)
    (folder / "broken.txt").write_text("a broken picture")
    picture(5).save(folder / "lonely.png")
    return folder


def test_a_folder_pairs_the_files_of_one_name(media, plan, clip, clap, tmp_path):
    wanted: frozenset[Modality] = frozenset({"image", "audio"})
    source = open_source([media], wanted=wanted)
    assert isinstance(source, Folder)
    extract(source, tmp_path / "pairs", plan(*PAIRS["image-audio"]), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "pairs")
    assert table.ids == table.source("file") == ["a.png", "b.png", "more/c.png"]
    assert table.source("audio_file") == ["a.wav", "b.wav", "more/c.wav"]
    images = ClipEncoder.from_pretrained(clip).encode_image([picture(n) for n in (1, 0, 2)])
    assert close(table.tensor("clip_image"), images)
    heard = [soundfile.read(media / name, dtype="float32") for name in table.source("audio_file")]
    assert close(table.tensor("clap_audio"), ClapEncoder.from_pretrained(clap).encode_audio(heard))
    failures = table.failures()
    assert set(failures) == {"broken.jpg", "lonely.png"}
    assert "no audio of that name" in failures["lonely.png"]
    extract(
        open_source([media], wanted=frozenset({"image", "text"})),
        tmp_path / "captioned",
        plan(*PAIRS["image-caption"]),
    )
    captioned = EmbeddingTable.open(tmp_path / "captioned")
    assert captioned.source("caption") == [CAPTIONS[1], CAPTIONS[0], CAPTIONS[2]]


def test_a_folder_of_sounds_pairs_with_captions(media, plan, clap, tmp_path):
    (media / "noise.wav").write_bytes(b"no sound")
    (media / "noise.txt").write_text("noise")
    source = open_source([media], wanted=frozenset({"audio", "text"}))
    extract(source, tmp_path / "table", plan(*PAIRS["audio-caption"]), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.ids == ["a.wav", "b.wav", "broken.wav", "more/c.wav"]
    heard = [soundfile.read(media / name, dtype="float32") for name in table.ids]
    assert close(table.tensor("clap_audio"), ClapEncoder.from_pretrained(clap).encode_audio(heard))
    assert "not a recording" in table.failures()["noise.wav"]


def test_audiocaps_takes_its_sounds_and_frames(plan, clip, clap, tmp_path):
    write_audiocaps(tmp_path / "val.csv", CAPTIONS[:3])
    for folder in ("sounds", "frames", "frames/clip1_30"):
        (tmp_path / folder).mkdir()
    for n in range(2):
        soundfile.write(tmp_path / "sounds" / f"clip{n}_30.wav", sound(n), 16_000)
    picture(0).save(tmp_path / "frames" / "clip0_30.png")
    for n in range(3):
        picture(10 + n).save(tmp_path / "frames" / "clip1_30" / f"{n}.png")
    source = AudioCaps(tmp_path / "val.csv", tmp_path / "sounds", tmp_path / "frames")
    columns = ("clip_image", "clip_text", "clap_audio", "clap_text")
    extract(source, tmp_path / "table", plan(*columns), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.ids == ["900", "899"]
    images = ClipEncoder.from_pretrained(clip).encode_image([picture(0), picture(11)])
    assert close(table.tensor("clip_image"), images)
    audios = ClapEncoder.from_pretrained(clap).encode_audio(
        [soundfile.read(tmp_path / "sounds" / f"clip{n}_30.wav", dtype="float32") for n in (0, 1)]
    )
    assert close(table.tensor("clap_audio"), audios)
    assert "no file named clip2_30 in" in table.failures()["898"]


@pytest.fixture
def server(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    """A server on 127.0.0.1 with pictures under /NUMBER.png, and nothing else."""

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".png")
            body = png(int(name)) if name.isdigit() else b"nothing here"
            self.send_response(200 if name.isdigit() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return serve(Pictures)


def test_conceptual_captions_are_downloaded_and_embedded(server, plan, clip, tmp_path):
    lines = [f"{caption}\t{server}/{n}.png" for n, caption in enumerate(CAPTIONS)]
    lines[2:2] = [f"a dead link\t{server}/gone", "no address", f"\t{server}/7.png"]
    file = tmp_path / "Validation_GCC-1.1.0-Validation.tsv"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    extract(
        open_source([file], wanted=frozenset({"text", "image"})),
        tmp_path / "table",
        plan("clip_image", "clap_text"),
        dtype="float32",
        download=DownloadConfig(allow_private=True, cache=tmp_path / "cache", retries=0),
    )
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.source("caption") == CAPTIONS
    assert table.ids == [f"{file.stem}:{n}" for n in (0, 1, 5, 6, 7)]
    assert table.source("split") == ["val"] * 5
    images = ClipEncoder.from_pretrained(clip).encode_image([picture(n) for n in range(5)])
    assert close(table.tensor("clip_image"), images)
    reasons = list(table.failures().values())
    assert "404" in reasons[0]
    assert "a caption, a tab and an address" in reasons[1]
    assert reasons[2] == "empty caption"


def test_pictures_that_no_encoder_wants_are_not_fetched(plan, tmp_path):
    file = tmp_path / "Validation_GCC-1.1.0-Validation.tsv"
    file.write_text("rain\thttp://127.0.0.1:9/dead.png\n", "utf-8")
    source = open_source([file], wanted=frozenset({"text"}))
    report = extract(source, tmp_path / "table", plan("clip_text", "clap_text"))
    assert (report.rows, report.failures) == (1, 0)


def write_wit(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, WIT_HEADER, delimiter="\t")
        writer.writeheader()
        writer.writerows([dict.fromkeys(WIT_HEADER, "") | row for row in rows])
    return path


def test_wit_takes_the_language_and_the_first_caption_in_order(tmp_path):
    base = {"language": "en", "image_url": "https://a.org/a.jpg", "mime_type": "image/jpeg"}
    texts = {
        "caption_reference_description": "reference",
        "caption_attribution_description": "attribution, with\na line\tand a tab",
        "caption_alt_text_description": 'alt "text"',
    }
    names = list(texts)
    rows = [
        base | texts,
        base | {name: texts[name] for name in names[1:]},
        base | {"language": "uk"} | texts,
        base | {names[2]: texts[names[2]]},
        base | texts | {"image_url": "https://a.org/b.svg", "mime_type": "image/svg+xml"},
        base,
    ]
    file = write_wit(tmp_path / "wit_v1.train.all-00000-of-00010.tsv.gz", rows)
    source = open_source([file], wanted=frozenset({"text", "image"}))
    assert isinstance(source, Wit)
    read = list(source)
    assert [row.columns["caption"] for row in read] == [*texts.values(), "reference", ""]
    assert [row.id.rpartition(":")[2] for row in read] == ["0", "1", "3", "4", "5"]
    assert "image/svg+xml can't be read" in str(read[3].problem)
    assert {row.columns["split"] for row in read} == {"train"}
    assert [row.id.rpartition(":")[2] for row in Wit((file,), language="uk")] == ["2"]
    chosen = [row.columns["caption"] for row in Wit((file,), caption_field="alt")]
    assert chosen == ['alt "text"'] * 4 + [""]
    cut = tmp_path / "wit_v1.train.all-00001-of-00010.tsv.gz"
    cut.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="Download it again"):
        list(Wit((cut,)))


# Tables, data sets and shards of one's own


def test_a_table_of_ones_own_takes_named_columns(media, plan, clip, server, tmp_path):
    rows = {
        "name": ["one", "two", "three"],
        "words": CAPTIONS[:3],
        "picture": ["a.png", f"{server}/7.png", "nowhere.png"],
        "stars": [3, 4, 5],
    }
    fields = ColumnNames("name", "words", "picture", keep=("stars",))
    wanted: frozenset[Modality] = frozenset({"image", "text"})
    pq.write_table(pa.table(rows), media / "own.parquet")
    with pytest.raises(UserError, match="has the columns name, words, picture, stars, not"):
        open_source([media / "own.parquet"], wanted=wanted)
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t"), (".parquet", "")):
        file = media / f"own{suffix}"
        if delimiter:
            with file.open("w", newline="", encoding="utf-8") as lines:
                writer = csv.writer(lines, delimiter=delimiter)
                writer.writerow(rows)
                writer.writerows(zip(*rows.values(), strict=True))
        extract(
            open_source([file], wanted=wanted, columns=fields),
            tmp_path / suffix,
            plan("clip_image", "clap_text"),
            dtype="float32",
            download=DownloadConfig(allow_private=True, retries=0),
        )
        table = EmbeddingTable.open(tmp_path / suffix)
        assert table.ids == ["one", "two"]
        assert table.source("caption") == CAPTIONS[:2]
        assert table.source("file") == ["a.png", f"{server}/7.png"]
        assert list(map(int, table.source("stars"))) == [3, 4]
        images = ClipEncoder.from_pretrained(clip).encode_image([picture(1), picture(7)])
        assert close(table.tensor("clip_image"), images)
        assert "does not exist" in table.failures()["three"]


def test_a_saved_datasets_folder_gives_its_pictures(plan, clip, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"image": [picture(n) for n in range(3)], "caption": CAPTIONS[:3]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    source = open_source([tmp_path / "saved"], wanted=frozenset({"image", "text"}))
    assert isinstance(source, HubDataset)
    extract(source, tmp_path / "table", plan("clip_image", "clap_text"), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "table")
    images = ClipEncoder.from_pretrained(clip).encode_image([picture(n) for n in range(3)])
    assert close(table.tensor("clip_image"), images)
    assert table.source("caption") == CAPTIONS[:3]
    assert table.ids == ["saved:0", "saved:1", "saved:2"]


def write_shard(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))


def test_shards_of_img2dataset_are_read_in_order(plan, clip, tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        members = []
        for n in range(3):
            number = 3 * shard + n
            key = f"{shard:05}{n:04}"
            notes = {"caption": CAPTIONS[n], "url": f"https://a.org/{number}.png", "key": key}
            members += [
                (f"{key}.png", png(number) if number != 4 else b"broken"),
                (f"{key}.txt", CAPTIONS[n].encode()),
                (f"{key}.json", json.dumps(notes).encode()),
            ]
        write_shard(tmp_path / "shards" / f"{shard:05}.tar", members)
    source = open_source([tmp_path / "shards"], wanted=frozenset({"image", "text"}))
    assert isinstance(source, WebDataset)
    extract(source, tmp_path / "table", plan("clip_image", "clap_text"), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.ids == [f"{k[:5]}/{k}" for k in ("000000000", "000000001", "000000002")] + [
        f"{k[:5]}/{k}" for k in ("000010000", "000010002")
    ]
    images = ClipEncoder.from_pretrained(clip).encode_image([picture(n) for n in (0, 1, 2, 3, 5)])
    assert close(table.tensor("clip_image"), images)
    assert table.source("url")[3] == "https://a.org/3.png"
    assert "not a picture" in table.failures()["00001/000010001"]
    whole = (tmp_path / "shards" / "00001.tar").read_bytes()
    (tmp_path / "shards" / "00001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"00001\.tar can't be read as a tar file"):
        list(source)


def test_what_can_not_be_opened_is_told_in_a_line(tmp_path):
    text: frozenset[Modality] = frozenset({"text"})
    (tmp_path / "notes.docx").write_bytes(b"x")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for locations, message in (
        ([tmp_path / "notes.docx"], "no folder, tar, CSV, TSV or Parquet file"),
        ([tmp_path / "nowhere.csv"], "There is no file"),
        ([tmp_path / "*.tar"], "No file matches"),
        ([tmp_path / "other.csv"], "has the columns a, b, not caption or text"),
        ([tmp_path], "captions alone are read from a CSV"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(locations, wanted=text)
    with pytest.raises(UserError, match="audiocap_id, youtube_id, start_time, caption missing"):
        list(open_source([tmp_path / "other.csv"], wanted=text, format="audiocaps"))
    with pytest.raises(UserError, match="no published test captions"):
        published_files("conceptual-captions", "test", tmp_path)
    with pytest.raises(UserError, match="holds text only, not image"):
        open_source([write_audiocaps(tmp_path / "val.csv", [])], wanted=frozenset({"image"}))


# Ray


def test_where_ray_is_missing_it_is_named(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, f"{pipeline.__package__}.ray_engine", raising=False)
    source = AudioCaps(write_audiocaps(tmp_path / "val.csv", CAPTIONS))
    with pytest.raises(UserError, match=r"pip install 'clip2clap\[ray\]'"):
        extract(source, tmp_path / "table", plan("clip_text"), ray=RayConfig(actors=2))


@pytest.fixture
def on_ray(plan, media, tmp_path) -> Callable[..., ExtractionReport]:
    pytest.importorskip("ray", reason="needs clip2clap[ray]")
    names = ("a.png", "b.png", "broken.jpg")
    lines = [f"{text},{names[n % 3]}" for n, text in enumerate(many_captions(60))]
    (tmp_path / "rows.csv").write_text("\n".join(["caption,image", *lines]) + "\n")
    source = TableFile(tmp_path / "rows.csv", frozenset({"text", "image"}))
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

    def kill_an_actor(progress: pipeline.Progress) -> None:
        if killed or progress.rows + progress.failures < 8:
            return
        for process in psutil.Process().children(recursive=True):
            if "MapWorker" in " ".join(process.cmdline()):
                killed.append(process.pid)
                process.kill()
                return

    on_ray(folder=tmp_path / "ray", ray=RayConfig(actors=2), on_progress=kill_an_actor)
    assert killed
    compare(tmp_path / "here", tmp_path / "ray")
