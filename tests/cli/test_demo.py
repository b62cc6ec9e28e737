"""`clip2clap demo`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from clip2clap.inference.image_to_audio import ImageToAudioOutput, ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.media.writing import write_audio

Run = Callable[..., tuple[int, str, str]]


def test_the_demo_writes_its_files_and_tells_the_nearest_classes(
    run: Run,
    demo_models: torch.Tensor,
    ranking_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, shown, _ = run("demo", "--json", "--seed", "4")
    assert status == 0
    report = json.loads(shown)
    out = Path("clip2clap-demo")
    results = report["results"]
    files = [results[name] for name in ("image", "spectrogram", "page")]
    files += [candidate["path"] for candidate in results["candidates"]]
    assert sorted(files) == sorted(str(path) for path in out.iterdir())
    with Image.open(out / "photograph.jpg") as photograph:
        assert photograph.size == (451, 300)
    Image.fromarray(chelsea()).save("chelsea.png")

    pipeline = ImageToAudioPipeline.from_pretrained(ranking_model)
    result = pipeline(
        "chelsea.png",
        generator=[torch.Generator().manual_seed(4)],
        num_candidates=4,
        num_variations=4,
    )
    assert isinstance(result, ImageToAudioOutput)
    assert results["audio"] == results["candidates"][0]["path"] == str(out / "sound.wav")
    for candidate, expected in zip(results["candidates"], result.audios, strict=True):
        write_audio("expected.wav", expected, result.sampling_rate)
        waveform, _ = load_audio(candidate["path"])
        np.testing.assert_allclose(waveform, load_audio("expected.wav")[0], atol=1e-4)
    ranking = [candidate["similarity"] for candidate in results["candidates"]]
    assert ranking == sorted(ranking, reverse=True)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert [page.count(f'download="{Path(file).name}"') for file in files[3:]] == [1, 1, 1, 1]
    assert "Chelsea the cat" in page
    similarities = dict(
        zip(("cat", "dog", "sea"), (demo_models @ result.audio_embeds[0]).tolist(), strict=True)
    )
    nearest = [(entry["label"], entry["similarity"]) for entry in results["nearest"]]
    assert nearest == [
        (kind, pytest.approx(similarities[kind], abs=1e-3))
        for kind in sorted(similarities, key=lambda kind: -similarities[kind])
    ]
    scale = pipeline.generator_clap.logit_scale
    shares = (scale * torch.tensor([value for _, value in nearest])).softmax(0)
    encoder = pipeline.generator_clap.audio_encoder
    assert encoder is not None
    assert scale == pytest.approx(encoder.backend.model.logit_scale_a.exp().item())  # pyright: ignore
    assert [entry["probability"] for entry in results["nearest"]] == pytest.approx(
        shares.tolist(), abs=1e-2
    )
    stages = ["encode", "load", "denoise", "decode", "write"]
    assert list(report["seconds"]) == stages

    status, shown, _ = run("demo", "--seed", "4")
    assert status == 0
    for word in [*stages, *similarities, "total", "clip2clap-demo/index.html", "Next: clip2clap"]:
        assert word in shown


def test_the_demo_takes_an_image_and_leaves_other_files_alone(
    run: Run, demo_models: torch.Tensor, photos: Path, tmp_path: Path
) -> None:
    mine = photos / "photograph.jpg"
    mine.write_text("mine")
    status, _, complaint = run("demo", photos / "cat.png", "-o", photos)
    assert status == 2
    assert "already has photograph.jpg, not written by clip2clap demo" in complaint
    assert mine.read_text() == "mine"
    assert run("demo", photos / "cat.png", "-o", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "photograph.jpg") as photograph:
        assert photograph.size == (60, 40)
    status, _, complaint = run("demo", photos / "absent.png", "-o", tmp_path / "out")
    assert (status, complaint.count("\n")) == (2, 1)
    assert "absent.png does not exist" in complaint
    for sound in ("sound.wav", "sound-4.wav"):
        again = tmp_path / "again" / sound
        assert run("repeat", tmp_path / "out" / sound, "-o", again.parent)[0] == 0
        assert again.read_bytes() == (tmp_path / "out" / sound).read_bytes()
