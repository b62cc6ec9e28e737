"""The scripts and `clip2clap extract` as people run them, on 50 rows with the demo models."""

import csv
import gzip
import io
import json
import runpy
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clip2clap.cli.app import main
from clip2clap.core import http
from clip2clap.embeddings import checkpoint
from clip2clap.embeddings.datasets.published import published_files
from clip2clap.embeddings.table.reader import EmbeddingTable

SCRIPTS = Path(__file__).parents[2] / "prior_steps"
ROWS = 50
WORDS = ("a dog barks", 'rain, "heavy"', "a tra\u00efn passes, whistling", "waves", "a cat")


def run(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def script(monkeypatch, tmp_path) -> Callable[..., None]:
    """Run a script in an empty folder, as `python SCRIPT` does there."""
    monkeypatch.chdir(tmp_path)

    def run_script(name: str, *arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        assert not ended.value.code

    return run_script


def captions() -> list[str]:
    return [f"{WORDS[n % len(WORDS)]} {n}" for n in range(ROWS)]


@pytest.fixture
def server(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    """A server of pictures, and of AudioCaps' validation file."""

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("val.csv"):
                body = b"audiocap_id,youtube_id,start_time,caption\n1,abc,30,Rain\n"
            else:
                name = self.path.strip("/").removesuffix(".png")
                pixels = np.full((8, 8, 3), int(name) * 5 % 256, np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                body = file.getvalue()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return serve(Pictures)


def test_the_audiocaps_scripts_lead_from_captions_to_text_files(script, tmp_path, capsys):
    with (tmp_path / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        writer.writerows([n, f"clip{n}", 30, text] for n, text in enumerate(captions()))
    script("audiocaps/embedding_CLIP.py", "--demo")
    script("audiocaps/embedding_CLAP.py", "--demo")
    table = EmbeddingTable.open("audiocaps-train")
    assert table.source("caption") == captions()
    assert set(table.spaces) == {"clip_text", "clap_text"}
    alone = EmbeddingTable.open("audiocaps-train-clip")
    assert torch.equal(table.tensor("clip_text"), alone.tensor("clip_text"))
    script("audiocaps/csvtotxt.py")
    assert len(list(Path("audiocaps-train-text").glob("muestra_*.txt"))) == ROWS
    script("audiocaps/histogram.py")
    assert Path("audiocaps-train-norms/norms.json").is_file()
    assert f"{ROWS} pairs in audiocaps-train-text" in capsys.readouterr().out


def test_the_conceptual_captions_script_downloads_and_embeds(script, server, tmp_path):
    lines = [f"{text}\t{server}/{n}.png" for n, text in enumerate(captions())]
    (tmp_path / "GCC-1.1.0-Validation.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    script("conceptual_captions/embedding.py", "--split", "val", "--demo", "--allow-private")
    table = EmbeddingTable.open("conceptual-captions-val")
    assert set(table.spaces) == {"clip_image", "clap_text"}
    assert table.source("caption") == captions()
    assert table.source("url") == [f"{server}/{n}.png" for n in range(ROWS)]


def test_the_wit_script_streams_the_packed_file(script, server, tmp_path):
    header = ["language", "image_url", "mime_type", "caption_reference_description"]
    header += ["caption_attribution_description", "caption_alt_text_description"]
    file = tmp_path / "wit_v1.train.all-1percent_sample.tsv.gz"
    with gzip.open(file, "wt", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t")
        writer.writerow(header)
        for n, text in enumerate(captions()):
            language = "uk" if n % 10 == 9 else "en"
            writer.writerow([language, f"{server}/{n}.png", "image/png", "", "", text])
    out = tmp_path / "wit"
    script("wit/embedding.py", "--captions", file, "--demo", "--allow-private", "--out", out)
    table = EmbeddingTable.open(out)
    assert len(table) == ROWS * 9 // 10
    assert set(table.source("caption_field")) == {"alt"}
    options = ("--language", "uk", "--limit", 3, "--demo", "--allow-private")
    script("wit/embedding.py", "--captions", file, *options, "--out", tmp_path / "wit-uk")
    assert [row.rpartition(":")[2] for row in EmbeddingTable.open("wit-uk").ids] == [
        "9",
        "19",
        "29",
    ]


def test_extract_pairs_images_with_audio(tmp_path, capsys):
    folder = tmp_path / "media"
    folder.mkdir()
    for n in range(4):
        Image.fromarray(np.full((8, 8, 3), n * 60, np.uint8)).save(folder / f"{n}.png")
        soundfile.write(folder / f"{n}.wav", np.sin(np.arange(8000) * (n + 1) / 9), 16_000)
    (folder / "3.wav").write_bytes(b"no sound")
    out = tmp_path / "table"
    pair = ("--pair", "image-audio", "--demo", "--device", "cpu")
    assert run("extract", folder, "-o", out, *pair, "--json") == 0
    report = json.loads(capsys.readouterr().out)["results"]
    assert (report["rows"], report["failures"], report["folder"]) == (3, 1, str(out))
    assert run("extract", folder, "-o", out, *pair) == 0
    assert "3 rows, 1 failed, 0 rows in" in capsys.readouterr().out
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    (tmp_path / "bad" / "a.txt").write_text("a caption")
    options = ("--pair", "image-caption", "--demo")
    assert run("extract", tmp_path / "bad", "-o", tmp_path / "none", *options) == 1


def test_a_published_file_that_is_not_there_is_fetched(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (path,) = published_files("audiocaps", "val", "data", base_url=f"{server}/")
    assert path == Path("data/val.csv")
    assert path.read_text().endswith("Rain\n")

    def unreachable(*_: Any, **__: Any) -> None:
        raise http.FetchError("no network")

    monkeypatch.setattr(http, "fetch", unreachable)
    assert run("extract", "audiocaps", "--split", "test", "--demo") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Get it from https://github.com/cdjkim/audiocaps" in error
    assert not list(tmp_path.glob(".test*"))


def test_with_no_network_and_nothing_on_disk_both_ways_out_are_named(tmp_path, monkeypatch, capsys):
    def unreachable(*_: Any, **__: Any) -> Exception:
        return ConnectionError("no network")

    monkeypatch.setattr(checkpoint, "list_hub_files", unreachable)
    file = tmp_path / "val.csv"
    file.write_text("audiocap_id,youtube_id,start_time,caption\n1,abc,30,Rain\n")
    options = ("--clip", "nobody/nothing", "--only", "clip", "-o", tmp_path / "table")
    assert run("extract", "audiocaps", "--captions", file, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "hf download nobody/nothing" in error
    assert "--demo" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["somewhere"], "--pair: needed for your own data, one of image-audio, image-"),
        (["somewhere", "--pair", "image-caption"], "SOURCE: somewhere is no folder, tar, CSV"),
        (["audiocaps", "--ray-address", "auto"], "--ray-address: goes with --engine ray"),
        (["audiocaps", "--limit", "0"], "--limit: expected at least 1, got 0."),
        (["audiocaps", "--pair-with", "auto"], "--pair-with: goes with --only"),
        (["audiocaps", "--only", "clap", "--pair-with", "auto"], "there is no table audiocaps-tra"),
        (["audiocaps", "--split", "all", "--demo"], "--split: expected train, val or test"),
        (
            ["rows.csv", "--captions", "a.csv", "--pair", "image-audio"],
            "--captions: goes with a published data set. Name the",
        ),
    ],
)
def test_a_mistake_in_the_call_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("extract", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
