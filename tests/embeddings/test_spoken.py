"""Published layouts of spoken captions, and tables of one's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.spoken import read_spoken_captions


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_json(path: Path, entries: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": entries}))


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    audio = tmp_path / "flickr_audio"
    touch(*(audio / "wavs" / f"{name}_{n}.wav" for name in ("a", "b", "c") for n in (0, 1)))
    touch(*(tmp_path / "Flicker8k_Dataset" / f"{name}.jpg" for name in ("a", "b", "c")))
    lines = [f"{name}_{n}.wav {name}.jpg #{n}" for name in ("a", "b", "c") for n in (0, 1)]
    (audio / "wav2capt.txt").write_text("\n".join(lines) + "\n")
    text = tmp_path / "Flickr8k_text"
    text.mkdir()
    captions = [f"{name}.jpg#{n}\tA {name} number {n} ." for name in "abc" for n in (0, 1)]
    (text / "Flickr8k.token.txt").write_text("\n".join(captions) + "\n")
    for name, image in (("train", "a"), ("dev", "b"), ("test", "c")):
        (text / f"Flickr_8k.{name}Images.txt").write_text(f"{image}.jpg\n")
    return tmp_path


def test_flickr8k_audio_is_read_as_published(flickr):
    found = read_spoken_captions(flickr)
    assert found.layout == "flickr8k-audio"
    row = found.rows[1]
    assert (row.caption, row.split, row.item) == ("A a number 1 .", "train", "a.jpg")
    assert row.audio == flickr / "flickr_audio" / "wavs" / "a_1.wav"
    assert row.image == flickr / "Flicker8k_Dataset" / "a.jpg"
    assert [row.id for row in found.of_split("test").rows] == ["c_0.wav", "c_1.wav"]
    assert len(found.of_split("validation").rows) == 2


def test_spoken_coco_prefers_karpathys_splits(tmp_path):
    def entry(image: str, number: int) -> dict[str, Any]:
        wav = f"wavs/val/0/s-{number}.wav"
        captions = [{"text": "A DOG", "speaker": "s", "uttid": f"s-{number}", "wav": wav}]
        touch(tmp_path / wav, tmp_path / "images" / image)
        return {"image": image, "captions": captions}

    write_json(tmp_path / "SpokenCOCO_train.json", [entry("train2014/1.jpg", 1)])
    write_json(tmp_path / "SpokenCOCO_val.json", [entry("val2014/2.jpg", 2)])
    found = read_spoken_captions(tmp_path)
    assert [(row.id, row.split) for row in found.rows] == [("s-1", "train"), ("s-2", "validation")]
    assert found.rows[0].image == tmp_path / "images" / "train2014" / "1.jpg"
    write_json(tmp_path / "SpokenCOCO_test_karpathy.json", [entry("val2014/3.jpg", 3)])
    assert [row.split for row in read_spoken_captions(tmp_path).rows] == ["test"]


@pytest.mark.parametrize("is_objectnet", [True, False])
def test_places_and_spoken_objectnet_share_a_layout(tmp_path, is_objectnet):
    top = tmp_path / "Spoken-ObjectNet-50k" if is_objectnet else tmp_path
    names = ("SON-train", "SON-val", "SON-test") if is_objectnet else ("train", "val")
    for number, name in enumerate(names):
        wav, image = f"chair/{number}.wav", f"chairs/{number}.png"
        touch(top / "wavs" / wav, tmp_path / "images" / image)
        entry = {"uttid": f"u{number}", "speaker": "s", "asr_text": "a chair", "wav": wav}
        write_json(top / "metadata" / f"{name}.json", [{**entry, "image": image}])
    found = read_spoken_captions(tmp_path)
    assert found.layout == ("spoken-objectnet" if is_objectnet else "places-audio")
    assert [row.split for row in found.rows] == ["train", "validation", "test"][: len(names)]
    assert found.rows[0].audio == top / "wavs" / "chair" / "0.wav"
    assert found.rows[0].caption == "a chair"


def test_missing_files_are_named_or_left_out(flickr):
    (flickr / "flickr_audio" / "wavs" / "a_0.wav").unlink()
    with pytest.raises(UserError, match=r"not complete: 1 files are missing: .*a_0\.wav"):
        read_spoken_captions(flickr)
    found = read_spoken_captions(flickr, partial=True)
    assert len(found.rows) == 5
    assert "a_0.wav" in found.lacking


def test_a_table_has_audio_and_captions_or_images(tmp_path):
    soundfile.write(tmp_path / "1.wav", np.full(800, 0.1), 16_000)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    lines = [
        {"audio": "1.wav", "caption": "a dog", "image": "1.png", "split": "dev"},
        {"audio": "1.wav", "caption": None, "image": "1.png", "split": "train"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read_spoken_captions(tmp_path / "data.jsonl")
    assert [(row.caption, row.split) for row in found.rows] == [
        ("a dog", "validation"),
        (None, "train"),
    ]
    assert found.rows[0].item == found.rows[1].item == str(tmp_path / "1.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sound,words\n1.wav,a dog\n", "expected audio, and caption or image"),
        ("audio,caption\n1.wav,\n", "Row 1 of .*: neither a caption nor an image"),
        ("audio,caption\n,a dog\n", "Row 1 of .*: no audio"),
        ("audio,caption,split\n1.wav,a dog,holdout\n", "train, validation or test, got 'holdout'"),
        ("audio,caption\nhttp://a.b/1.wav,a dog\n", "is an address"),
        ("audio,caption\n", "has no spoken captions"),
    ],
)
def test_a_table_that_is_none_is_explained(tmp_path, text, message):
    (tmp_path / "data.csv").write_text(text)
    touch(tmp_path / "1.wav")
    with pytest.raises(UserError, match=message):
        read_spoken_captions(tmp_path / "data.csv")


def test_a_broken_row_of_a_table_costs_that_row_and_is_named(tmp_path):
    lines = ["audio,caption,split", "1.wav,a dog,train", "absent.wav,a cat,train", ",a cow,train"]
    lines += ["1.wav,,train", "1.wav,a pig,holdout", "1.wav,a sheep,test"]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    touch(tmp_path / "1.wav")
    found = read_spoken_captions(tmp_path / "data.csv")
    assert [row.caption for row in found.rows] == ["a dog", "a sheep"]
    assert list(found.unreadable) == ["data:2", "data:3", "data:4", "data:5"]
    assert "absent.wav is missing" in found.unreadable["data:2"]
    assert found.unreadable["data:3"].endswith("Row 3 of " + str(tmp_path / "data.csv: no audio"))


def test_a_folder_of_no_layout_names_those_it_could_have(tmp_path):
    with pytest.raises(UserError, match=r"flickr8k-audio, spoken-coco, .* as published"):
        read_spoken_captions(tmp_path)
