"""Retrieval between speech and images in published layouts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from clip2clap.core.errors import ModelNotFoundError, UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.evaluation.benchmarks.speech import read_speech_benchmark, run_speech_benchmark
from clip2clap.evaluation.benchmarks.transcripts import Transcriber

RATE = 16_000


@pytest.fixture(scope="module")
def flickr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test images of Flickr8k, with two spoken captions each, and one image to train on."""
    folder = tmp_path_factory.mktemp("flickr")
    wavs, images = folder / "flickr_audio" / "wavs", folder / "Images"
    wavs.mkdir(parents=True)
    images.mkdir()
    random = np.random.default_rng(0)
    lines, captions = [], []
    for n in range(7):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
            images / f"{n}.jpg"
        )
        for take in range(2):
            pitch = 300 + 150 * n + 10 * take
            tone = np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE)
            soundfile.write(wavs / f"{n}_{take}.wav", 0.3 * tone, RATE)
            lines.append(f"{n}_{take}.wav {n}.jpg #{take}")
            captions.append(f"{n}.jpg#{take}\tthing {'abcdefg'[n]} {take}")
    (folder / "flickr_audio" / "wav2capt.txt").write_text("\n".join(lines))
    (folder / "Flickr8k.token.txt").write_text("\n".join(captions))
    (folder / "Flickr_8k.testImages.txt").write_text("\n".join(f"{n}.jpg" for n in range(6)))
    (folder / "Flickr_8k.trainImages.txt").write_text("6.jpg\n")
    return folder


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper with random weights, whose tokens are letters."""
    folder = tmp_path_factory.mktemp("whisper")
    vocabulary = {"<|endoftext|>": 0, "<|startoftranscript|>": 1, "<|notimestamps|>": 2}
    for letter in [*"abcdefghijklmnopqrstuvwxyz", "Ġ"]:
        vocabulary[letter] = len(vocabulary)
    end = "<|endoftext|>"
    tokens: dict[str, Any] = {
        "unk_token": end,
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
    }
    WhisperTokenizer(vocab=vocabulary, merges=[], **tokens).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_target_positions": 16}
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(vocabulary),
            decoder_start_token_id=1,
            begin_suppress_tokens=None,
            **ids,
            **sizes,
        )
    )
    assert model.generation_config is not None
    model.generation_config.max_length = 6
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(reading_clip_folder) -> ClipEncoder:
    return ClipEncoder.from_pretrained(reading_clip_folder)


@pytest.fixture(scope="module")
def speech(speech_folder) -> SpeechEncoder:
    return SpeechEncoder.from_pretrained(speech_folder)


def recall_at_1(queries: torch.Tensor, gallery: torch.Tensor, right: list[set[int]]) -> float:
    nearest = (unit_norm(queries) @ unit_norm(gallery).T).argmax(1).tolist()
    return float(np.mean([place in own for place, own in zip(nearest, right, strict=True)]))


def test_recalls_are_those_of_both_directions_beside_recognition_and_written_captions(
    flickr, recognizer, clip, speech, tmp_path
):
    data = read_speech_benchmark("flickr8k-audio", flickr, partial=True)
    assert (len(data.rows), len(data.images)) == (12, 6)
    assert "12 of 5000 captions of 6 of 1000 images" in data.lacking
    transcriber = Transcriber(str(recognizer))
    results = run_speech_benchmark(
        data, speech, clip, tmp_path / "out", transcriber=transcriber, resamples=100
    )
    images = clip.encode_image(list(data.images))
    transcripts = transcriber([row.audio for row in data.rows])
    assert transcripts == [
        json.loads(line)["text"]
        for line in (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()[1:]
    ]
    queries = {
        f"speech encoder {speech.fingerprint}": speech.encode_audio([r.audio for r in data.rows]),
        f"{recognizer}, CLIP text encoder": clip.encode_text(transcripts),
        "captions as written, CLIP text encoder": clip.encode_text(
            [str(row.caption) for row in data.rows]
        ),
    }
    found = {(one["method"], one["direction"]): one for one in results["results"]}
    for method, embeds in queries.items():
        there = recall_at_1(embeds, images, [{n // 2} for n in range(12)])
        back = recall_at_1(images, embeds, [{2 * n, 2 * n + 1} for n in range(6)])
        assert found[method, "speech to image"]["metrics"]["recall_at_1"]["value"] == there
        assert found[method, "image to speech"]["metrics"]["recall_at_1"]["value"] == back
    assert {row["recall_at_1"] for row in results["published"]} == {33.2, 21.8}


def test_an_interrupted_run_transcribes_only_what_is_left(
    flickr, recognizer, clip, speech, tmp_path, monkeypatch
):
    data = read_speech_benchmark("flickr8k-audio", flickr, partial=True)
    transcriber = Transcriber(str(recognizer))
    run_speech_benchmark(data, speech, clip, tmp_path, transcriber=transcriber, resamples=100)
    lines = (tmp_path / "transcripts.jsonl").read_text().splitlines()
    (tmp_path / "transcripts.jsonl").write_text("\n".join([*lines[:8], lines[8][:5]]))
    heard = []
    monkeypatch.setattr(
        Transcriber, "__call__", lambda self, audio, **_: heard.extend(audio) or [""] * len(audio)
    )
    run_speech_benchmark(data, speech, clip, tmp_path, transcriber=transcriber, resamples=100)
    assert len(heard) == 12 - 7
    other = Transcriber(str(recognizer))
    other.name = "another"
    with pytest.raises(UserError, match="not of 'another'"):
        run_speech_benchmark(data, speech, clip, tmp_path, transcriber=other, resamples=100)


def test_captions_that_cannot_be_read_are_left_out_and_named_if_that_is_wanted(
    flickr, clip, speech, tmp_path
):
    folder = tmp_path / "flickr"
    shutil.copytree(flickr, folder)
    (folder / "flickr_audio" / "wavs" / "0_1.wav").write_bytes(b"no audio")
    (folder / "Images" / "3.jpg").write_bytes(b"no image")
    data = read_speech_benchmark("flickr8k-audio", folder, partial=True)
    with pytest.raises(UserError, match="3 spoken captions or their images cannot be read"):
        run_speech_benchmark(data, speech, clip, tmp_path / "out", resamples=100)
    results = run_speech_benchmark(
        data, speech, clip, tmp_path / "out", partial=True, resamples=100
    )
    assert set(results["unreadable"]) == {"0_1.wav", "3_0.wav", "3_1.wav"}
    assert results["clips"] == 9
    rows = [row for row in data.rows if row.id not in results["unreadable"]]
    spoken = speech.encode_audio([row.audio for row in rows])
    images = clip.encode_image([folder / "Images" / f"{n}.jpg" for n in (0, 1, 2, 4, 5)])
    places = {"0": 0, "1": 1, "2": 2, "4": 3, "5": 4}
    expected = recall_at_1(spoken, images, [{places[row.id[0]]} for row in rows])
    (found,) = [
        one
        for one in results["results"]
        if one["method"].startswith("speech") and one["direction"] == "speech to image"
    ]
    assert found["metrics"]["recall_at_1"]["value"] == expected


def test_the_command_shows_published_rows_and_asks_for_a_baseline(
    run, flickr, reading_clip_folder, speech_folder, tmp_path
):
    models = ("--clip", reading_clip_folder, "--speech-encoder", speech_folder, "--device", "cpu")
    out = ("-o", tmp_path / "out", "--resamples", 100)
    status, _, said = run("benchmark", "flickr8k-audio", flickr, *models, *out)
    assert status == 2
    assert "is not complete" in said
    assert "--partial" in said
    status, shown, _ = run("benchmark", "flickr8k-audio", flickr, *models, *out, "--partial")
    assert status == 0
    assert "33.2 %" in shown
    assert "add --asr" in shown
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert "Talk, Don" in page
    for wrong in (("--linear-probe",), ("--encoder", "demo")):
        assert run("benchmark", "flickr8k-audio", flickr, *models, *out, *wrong)[0] == 2


def test_what_is_wrong_is_named(flickr, tmp_path):
    with pytest.raises(UserError, match="has the layout of flickr8k-audio, not of SpokenCOCO"):
        read_speech_benchmark("spoken-coco", flickr, partial=True)
    with pytest.raises(ModelNotFoundError, match=r"recognizer .* can't be loaded") as error:
        Transcriber(str(tmp_path))
    assert error.value.param == "asr"
