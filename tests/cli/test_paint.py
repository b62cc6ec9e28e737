"""`clip2clap paint`."""

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.inference.painting import paint as painting
from clip2clap.media.audio import load_audio
from clip2clap.media.images import to_pixels
from clip2clap.metrics.image_quality import brisque, brisque_loss

Run = Callable[..., tuple[int, str, str]]
FEW = ("--num-iterations", 12, "--cutouts", 2, "--width", 16, "--height", 16, "--device", "cpu")


@pytest.fixture
def bark(tmp_path: Path) -> Path:
    rate = 16_000
    times = np.arange(rate) / rate
    sound = np.concatenate([np.sin(2 * np.pi * 300 * times), np.sin(2 * np.pi * 3000 * times)])
    soundfile.write(tmp_path / "bark.wav", 0.3 * sound, rate)
    return tmp_path / "bark.wav"


def test_audio_becomes_an_image_with_its_scores_beside_it(run, bark, tmp_path, painter_folder):
    out = tmp_path / "out"
    status, shown, _ = run("paint", bark, "-o", out, "--decoder", painter_folder, *FEW)
    assert (status, shown) == (0, f"{out / 'bark.png'}\n")
    assert Image.open(out / "bark.png").size == (16, 16)
    scores = json.loads((out / "bark.json").read_text())
    targets = [(entry["target"], entry["weight"]) for entry in scores["similarities"]]
    # The whole and its two parts, which count less.
    assert targets == [
        (str(bark), 1.0),
        (f"{bark} (1/2)", pytest.approx(0.3)),
        (f"{bark} (2/2)", pytest.approx(0.3)),
    ]
    assert {"loss", "iteration", "brisque", "seed"} <= scores.keys()
    assert sorted(path.name for path in out.iterdir()) == ["bark.json", "bark.png"]


def test_words_and_images_are_targets_too_and_need_no_audio(run, tmp_path, painter_folder):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    targets = (
        "--target-text",
        "a dog:0.5",
        "--target-text",
        "a cat:-0.2",
        "--target-image",
        f"{tmp_path}/red.png",
    )
    call = ("paint", "-o", tmp_path / "x.png", "--decoder", painter_folder, "--json", *FEW)
    status, shown, _ = run(*call, *targets)
    assert status == 0
    (picture,) = json.loads(shown)["results"]
    weights = {entry["target"]: entry["weight"] for entry in picture["similarities"]}
    assert weights == {"a dog": 0.5, "a cat": -0.2, f"{tmp_path}/red.png": 1.0}


def test_the_same_seed_paints_the_same_image(run, bark, tmp_path, painter_folder):
    pictures = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        path = tmp_path / f"{name}.png"
        run("paint", bark, "-o", path, "--decoder", painter_folder, "--seed", seed, *FEW)
        pictures.append(np.asarray(Image.open(path)))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_ctrl_c_keeps_the_best_so_far_and_init_goes_on_from_it(
    run, bark, tmp_path, painter_folder, monkeypatch
):
    path = tmp_path / "bark.png"
    step, written = painting.Painting.step, []

    def interrupted(self: painting.Painting) -> float:
        if self.iteration == 11:
            written.append(path.is_file())
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(painting.Painting, "step", interrupted)
    call = ("paint", bark, "-o", path, "--decoder", painter_folder, "--save-every", 5, *FEW)
    status, _, _ = run(*call)
    assert status == 130
    assert written == [True]  # the picture was there before the end
    scores = json.loads(path.with_suffix(".json").read_text())
    assert scores["iteration"] <= 10
    monkeypatch.undo()
    status, _, _ = run(*call, "--init-image", path, "--overwrite")
    assert status == 0


def test_audio_that_can_t_be_used_is_skipped_and_the_others_are_painted(
    run, bark, tmp_path, painter_folder
):
    soundfile.write(tmp_path / "quiet.wav", np.zeros(8000), 16_000)
    out = tmp_path / "out"
    inputs = (tmp_path / "quiet.wav", tmp_path / "none.wav", bark)
    status, shown, said = run("paint", *inputs, "-o", out, "--decoder", painter_folder, *FEW)
    assert (status, shown) == (1, f"{out / 'bark.png'}\n")
    assert said.count("skipped:") == 2
    assert "nothing to hear" in said or "silen" in said


def test_frames_a_film_and_a_zip_are_written_beside_the_image(run, bark, tmp_path, painter_folder):
    out = tmp_path / "bark.png"
    options = ("--save-every", 5, "--steps-film", "--zip", "--json")
    call = ("paint", bark, "-o", out, "--decoder", painter_folder, *options, *FEW)
    status, shown, _ = run(*call)
    assert status == 0
    settings = json.loads(shown)["settings"]
    names = sorted(path.name for path in (tmp_path / "bark-frames").iterdir())
    assert names == ["00005.png", "00010.png"]
    with zipfile.ZipFile(settings["zip_file"]) as archive:
        packed = sorted(archive.namelist())
    frames = [f"bark-frames/{name}" for name in names]
    assert packed == sorted(["bark.png", "bark.json", "bark.mp4", *frames])
    film = load_audio(settings["film"])[0]
    assert len(film) / 48_000 == pytest.approx(2, abs=0.1)
    assert np.abs(film).max() > 0.1


def test_several_recordings_are_one_film(run, bark, tmp_path, painter_folder):
    shutil.copy(bark, tmp_path / "second.wav")
    out = tmp_path / "out"
    call = ("paint", bark, tmp_path / "second.wav", "-o", out, "--steps-film")
    status, _, _ = run(*call, "--decoder", painter_folder, *FEW)
    assert status == 0
    assert len(load_audio(out / "film.mp4")[0]) / 48_000 == pytest.approx(4, abs=0.1)


def test_brisque_in_the_loss_needs_its_packages(run, bark, tmp_path, painter_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "piq", None)
    call = ("paint", bark, "-o", tmp_path / "x.png", "--decoder", painter_folder, *FEW)
    status, _, said = run(*call, "--brisque", 0.001)
    assert status == 2
    assert "clip2clap[scores]" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "INPUT"),
        (("--target-text", "a dog:-1"), "INPUT"),
        (("--target-text", "a dog:much"), "--target-text"),
        (("x.wav", "--width", "0"), "--width"),
        (("x.wav", "--cutouts", "0"), "--cutouts"),
        (("x.wav", "--break-audio", "0"), "--break-audio"),
        (("x.wav", "--init-image", "nowhere.png"), "--init-image"),
    ],
)
def test_mistakes_are_said_in_one_line(run: Run, tmp_path: Path, arguments, says: str):
    status, _, said = run("paint", *arguments, "-o", tmp_path / "out")
    assert status == 2
    assert says in said
    assert said.count("\n") == 1


def test_brisque_ranks_a_clean_image_above_a_blurred_and_a_noisy_one():
    from PIL import ImageFilter
    from skimage.data import chelsea

    clean = Image.fromarray(chelsea()[:200, :200])
    noise = np.random.default_rng(0).normal(0, 40, (200, 200, 3))
    noisy = Image.fromarray(np.clip(np.asarray(clean) + noise, 0, 255).astype(np.uint8))
    score = brisque(clean)
    assert score is not None
    for worse in (clean.filter(ImageFilter.GaussianBlur(3)), noisy):
        assert (brisque(worse) or 0) > score + 20
    assert brisque(Image.new("RGB", (64, 64))) is None


def test_the_differentiable_brisque_ranks_as_the_score_does_and_falls_along_its_gradient():
    from PIL import ImageFilter
    from skimage.data import chelsea

    clean = Image.fromarray(chelsea()[:256, :256])
    noise = np.random.default_rng(0).normal(0, 40, (256, 256, 3))
    noisy = Image.fromarray(np.clip(np.asarray(clean) + noise, 0, 255).astype(np.uint8))
    images = [clean, clean.filter(ImageFilter.GaussianBlur(1)), noisy]
    images.append(clean.filter(ImageFilter.GaussianBlur(3)))
    pixels = to_pixels(images, 256, 256)
    found = brisque_loss(pixels)
    # Heavy noise is beyond the images that it was fitted to, where the two differ most.
    for place in (0, 1, 3):
        assert found[place].item() == pytest.approx(brisque(images[place]), abs=12)
    assert found[0] < min(found[1:].tolist())
    blurred = pixels[3:].requires_grad_()
    (slope,) = torch.autograd.grad(brisque_loss(blurred).sum(), blurred)
    assert slope.isfinite().all()
    step = 0.002 * slope / slope.square().mean().sqrt()
    assert brisque_loss(blurred - step).item() < found[3].item() - 1
    assert brisque_loss(torch.full((1, 3, 32, 32), 0.5)).isfinite().all()
    with pytest.raises(UserError, match="at least 16 pixels"):
        brisque_loss(torch.zeros(1, 3, 8, 8))


def test_painting_with_brisque_has_a_lower_one():
    from clip2clap import ClipEncoder
    from clip2clap.inference import Canvas, PaintingOptions, Target, paint

    canvas, clip = Canvas.from_pretrained("demo"), ClipEncoder.from_pretrained("demo")
    target = Target(clip.encode_text(["a photo of a dog"])[0])
    scores = []
    for weight in (0, 0.01):
        painted = paint(
            canvas,
            clip,
            [target],
            latent=canvas.noise(64, 64, torch.Generator().manual_seed(0)),
            options=PaintingOptions(iterations=10, cutouts=1, cut_size=64, brisque=weight),
            generator=torch.Generator().manual_seed(0),
        )
        with torch.no_grad():
            scores.append(brisque_loss(canvas.pixels(painted.latent)).item())
    assert scores[1] < scores[0] - 5
