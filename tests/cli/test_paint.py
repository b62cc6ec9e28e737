"""`clip2clap paint`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.inference.painting import paint as painting
from clip2clap.metrics.image_quality import brisque

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
