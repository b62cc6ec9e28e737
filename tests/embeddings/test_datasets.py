"""Data sets as sources of rows: published ones, folders, tables and shards."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.audiocaps import AudioCaps
from clip2clap.embeddings.datasets.conceptual_captions import ConceptualCaptions
from clip2clap.embeddings.datasets.folder import Folder
from clip2clap.embeddings.datasets.hub import HubDataset
from clip2clap.embeddings.datasets.published import published_files
from clip2clap.embeddings.datasets.registry import open_source
from clip2clap.embeddings.datasets.tables import ColumnNames
from clip2clap.embeddings.datasets.webdataset import WebDataset
from clip2clap.embeddings.datasets.wit import Wit
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.extraction.pipeline import extract
from clip2clap.embeddings.extraction.plan import PAIRS
from clip2clap.embeddings.space import Modality
from clip2clap.embeddings.table.reader import EmbeddingTable

from .sources import (
    CAPTIONS,
    DATA,
    WIT_HEADER,
    close,
    picture,
    png,
    sound,
    write_audiocaps,
    write_shard,
)


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


# Pictures and sounds


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


def test_a_folder_of_audio_pairs_with_captions(media, plan, clap, tmp_path):
    (media / "noise.wav").write_bytes(b"no sound")
    (media / "noise.txt").write_text("noise")
    source = open_source([media], wanted=frozenset({"audio", "text"}))
    extract(source, tmp_path / "table", plan(*PAIRS["audio-caption"]), dtype="float32")
    table = EmbeddingTable.open(tmp_path / "table")
    assert table.ids == ["a.wav", "b.wav", "broken.wav", "more/c.wav"]
    heard = [soundfile.read(media / name, dtype="float32") for name in table.ids]
    assert close(table.tensor("clap_audio"), ClapEncoder.from_pretrained(clap).encode_audio(heard))
    assert "not an audio file" in table.failures()["noise.wav"]


def test_audiocaps_finds_its_audio_and_frames(plan, clip, clap, tmp_path):
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
    assert "expected a caption and an address, got" in reasons[1]
    assert reasons[2] == "empty caption"


def test_images_that_no_encoder_wants_are_not_fetched(plan, tmp_path):
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
        assert "No such file" in table.failures()["three"]


def test_a_saved_datasets_folder_gives_its_images(plan, clip, tmp_path):
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


def test_a_damaged_saved_data_set_is_one_line(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('[{"splits": ["train"]}]')
    source = open_source([tmp_path], wanted=frozenset({"text"}))
    with pytest.raises(UserError, match="can't be loaded"):
        next(iter(source))


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
    assert "not an image" in table.failures()["00001/000010001"]
    whole = (tmp_path / "shards" / "00001.tar").read_bytes()
    (tmp_path / "shards" / "00001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"00001\.tar can't be read as a tar file"):
        list(source)


def test_what_can_not_be_opened_is_reported_in_one_line(tmp_path):
    text: frozenset[Modality] = frozenset({"text"})
    (tmp_path / "notes.docx").write_bytes(b"x")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    for locations, message in (
        ([tmp_path / "notes.docx"], "no folder, tar, CSV, TSV, JSON lines or Parquet file"),
        ([tmp_path / "nowhere.csv"], "There is no file"),
        ([tmp_path / "*.tar"], "No file matches"),
        ([tmp_path / "other.csv"], "has the columns a, b, not caption or text"),
        ([tmp_path / "empty"], "captions alone are read from a CSV"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(locations, wanted=text)
    with pytest.raises(UserError, match="audiocap_id, youtube_id, start_time, caption missing"):
        list(open_source([tmp_path / "other.csv"], wanted=text, format="audiocaps"))
    with pytest.raises(UserError, match="no published test captions"):
        published_files("conceptual-captions", "test", tmp_path)
    with pytest.raises(UserError, match="holds text only, not image"):
        open_source([write_audiocaps(tmp_path / "val.csv", [])], wanted=frozenset({"image"}))
