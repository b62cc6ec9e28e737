"""`clip2clap audio-to-image`: what it paints, what it says, and what it skips."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
RATE = 16_000


def write_tone(path: Path, hertz: float = 440, *, seconds: float = 0.5) -> Path:
    times = np.arange(int(seconds * RATE)) / RATE
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * times), RATE)
    return path


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def paint(run: Run, painter_folder: Path) -> Callable[..., tuple[int, dict, str]]:
    """Run the command with the tiny model; gives the exit code, the report and stderr."""

    def command(*arguments: object) -> tuple[int, dict, str]:
        options = ("--decoder", painter_folder, "--dtype", "fp32", "--json")
        status, shown, complaint = run("audio-to-image", *arguments, *options)
        return status, json.loads(shown or "{}"), complaint

    return command


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of two recordings of one name, and a third."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name, hertz in (("bark.flac", 900), ("bark.wav", 300), ("sea.ogg", 90)):
        write_tone(folder / name, hertz)
    return folder


def test_each_audio_file_gets_an_image_of_its_name(run, painter_folder, sounds, tmp_path):
    out = tmp_path / "pictures"
    status, shown, told = run("audio-to-image", sounds, "-o", out, "--decoder", painter_folder)
    assert status == 0
    names = ["bark.png", "bark-2.png", "sea.png"]
    assert shown.splitlines() == [str(out / name) for name in names]
    assert all(pixels(out / name).shape == (16, 16, 3) for name in names)
    assert told.splitlines()[0].startswith("bark: ")
    assert "3 images in" in told.splitlines()[-1]


def test_subfolders_are_searched_if_asked_for(paint, sounds, tmp_path):
    (sounds / "night").mkdir()
    (sounds / "sea.ogg").rename(sounds / "night" / "sea.ogg")
    for options, count in (([], 2), (["--recursive"], 3)):
        status, report, _ = paint(sounds, "-o", tmp_path / f"{count}", *options)
        assert status == 0
        assert len(report["results"]) == count


def test_an_image_depends_on_its_seed_and_not_on_batches_or_neighbours(paint, sounds, tmp_path):
    options = ("--num-images", 2, "--seed", 5)
    _, together, _ = paint(sounds, "-o", tmp_path / "a", *options, "--batch-size", 6)
    paint(sounds, "-o", tmp_path / "b", *options, "--batch-size", 1)
    paint(sounds, "-o", tmp_path / "c", "--num-images", 2, "--seed", 6)
    last = together["results"][2]
    assert (last["input"], last["seed"]) == (str(sounds / "sea.ogg"), 7)
    paint(last["input"], "-o", tmp_path / "d", "--num-images", 2, "--seed", last["seed"])
    for name in ("bark-1.png", "bark-2-2.png", "sea-1.png", "sea-2.png"):
        first, batched, reseeded = (pixels(tmp_path / run / name) for run in "abc")
        assert np.abs(first - batched).max() <= 1
        assert np.abs(first - reseeded).max() > 5
    for name in ("sea-1.png", "sea-2.png"):
        assert np.abs(pixels(tmp_path / "a" / name) - pixels(tmp_path / "d" / name)).max() <= 1


def test_the_best_candidates_are_kept_in_order_and_shown_in_a_grid(paint, sounds, tmp_path):
    bark = sounds / "bark.wav"
    _, all_six, _ = paint(bark, "-o", tmp_path / "all", "--num-images", 6)
    _, report, _ = paint(
        bark, "-o", tmp_path / "best.webp", "--num-images", 3, "--num-candidates", 6, "--grid"
    )
    (entry,) = report["results"]
    similarities = [image["similarity"] for image in entry["images"]]
    ranked = [image["similarity"] for image in all_six["results"][0]["images"]]
    assert similarities == sorted(ranked, reverse=True)[:3]
    assert similarities[0] > ranked[-1]
    assert entry["grid"] == str(tmp_path / "best-grid.webp")
    with Image.open(entry["grid"]) as grid:
        assert grid.size == (32, 32)


def test_words_and_mixes_move_the_vector(paint, sounds, tmp_path):
    bark, sea = sounds / "bark.wav", sounds / "sea.ogg"

    def nearest(*arguments: object) -> tuple[str, np.ndarray]:
        status, report, _ = paint(*arguments, "-o", tmp_path / "out")
        assert status == 0
        (entry,) = report["results"]
        return str(entry["nearest"]), pixels(entry["images"][0]["output"])

    alone, picture = nearest(bark)
    same, again = nearest("--mix", f"{bark}:0.7", "--mix", f"{sea}:0")
    assert same == alone
    assert np.abs(again - picture).max() <= 1
    assert nearest("--mix", f"{bark}:0.7", "--mix", f"{sea}:0.3")[0] != alone
    assert nearest(bark, "--prompt", "an oil painting", "--prompt-weight", 0)[0] == alone
    assert nearest(bark, "--prompt", "an oil painting", "--prompt-weight", 0.9)[0] != alone


def test_only_the_part_asked_for_is_heard(paint, tmp_path):
    low, high = (write_tone(tmp_path / f"{hertz}.wav", hertz) for hertz in (90, 2000))
    both = np.concatenate([soundfile.read(low)[0], soundfile.read(high)[0]])
    soundfile.write(tmp_path / "both.wav", both, RATE)
    _, alone, _ = paint(high, "-o", tmp_path / "out")
    _, part, _ = paint(tmp_path / "both.wav", "-o", tmp_path / "out", "--start-s", 0.5)
    _, other, _ = paint(tmp_path / "both.wav", "-o", tmp_path / "out", "--duration-s", 0.5)
    expected, got, control = (
        np.array([name["similarity"] for name in report["results"][0]["nearest"]])
        for report in (alone, part, other)
    )
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert part["results"][0]["seconds"] == 0.5
    assert alone["results"][0]["nearest"] != other["results"][0]["nearest"] or (
        np.abs(control - expected).max() > 2e-3
    )


def test_labels_of_ones_own_name_what_the_audio_was_heard_as(paint, sounds, tmp_path):
    (tmp_path / "names.txt").write_text("a bell\n\na goose\na bell\n")
    _, report, told = paint(
        sounds / "bark.wav", "-o", tmp_path / "out", "--label-file", tmp_path / "names.txt"
    )
    nearest = report["results"][0]["nearest"]
    assert {name["label"] for name in nearest} == {"a bell", "a goose"}
    assert nearest[0]["similarity"] >= nearest[1]["similarity"]
    assert told.startswith(f"bark: {nearest[0]['label']} {nearest[0]['similarity']:.2f}")


def test_what_cannot_be_heard_is_skipped_in_one_line_each_and_the_rest_is_painted(
    paint, sounds, tmp_path
):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "empty.wav").touch()
    (bad / "text.mp3").write_text("not a sound")
    soundfile.write(bad / "zero.wav", np.zeros(0), RATE)
    soundfile.write(bad / "silent.wav", np.full(800, 0.25), RATE)
    soundfile.write(bad / "nan.wav", np.array([0.1, np.nan]), RATE, subtype="FLOAT")
    whole = (sounds / "bark.wav").read_bytes()
    (bad / "cut.wav").write_bytes(whole[: len(whole) // 2])
    status, report, told = paint(bad, "absent.wav", sounds / "sea.ogg", "-o", tmp_path / "out")
    assert status == 1
    words = {
        "cut.wav": "is damaged or truncated",
        "empty.wav": "is empty",
        "nan.wav": "not finite (NaN or infinity)",
        "silent.wav": "is silent. Give audio",
        "text.mp3": "is not an audio file",
        "zero.wav": "holds no samples",
        "absent.wav": "No such file",
    }
    assert [Path(skipped["input"]).name for skipped in report["skipped"]] == list(words)
    for skipped, expected in zip(report["skipped"], words.values(), strict=True):
        assert expected in skipped["reason"]
        assert f"skipped: {skipped['reason']}" in told.splitlines()
    assert [Path(entry["input"]).name for entry in report["results"]] == ["sea.ogg"]
    assert (tmp_path / "out" / "sea.png").is_file()


def test_nothing_is_painted_of_a_mix_that_lacks_an_ingredient(paint, sounds, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), RATE)
    mix = ("--mix", f"{sounds / 'bark.wav'}:1", "--mix", f"{tmp_path / 'silent.wav'}:1")
    status, report, told = paint(*mix, "-o", tmp_path / "out")
    assert status == 1
    assert report["results"] == []
    assert "silent.wav is silent" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-o out", "INPUT: give audio, or --speech, or --mix"),
        ("bark.wav --mix bark.wav:1 -o out", "INPUT: give audio, or --speech, or --mix"),
        ("--mix bark.wav:loud -o out", "--mix: expected FILE:WEIGHT such as dog.wav:0.7"),
        ("bark.wav -o out --start-s -1", "--start-s: expected at least 0, got -1."),
        (
            "bark.wav -o out --num-images 4 --num-candidates 2",
            "--num-candidates: expected at least --num-images, 4, got 2.",
        ),
        ("bark.wav -o out --strength 2", "--strength: expected 0 to 1, got 2."),
        ("bark.wav -o out --prompt-weight 0.5", "--prompt-weight: it is the weight of a prompt."),
        ("bark.wav -o out --width 7", "--width: expected a multiple of 2 pixels, got 7."),
        ("bark.wav -o out --negative-prompt x", "--negative-prompt: The demo decoder is not"),
        ("bark.wav -o out.bmp", "--output: .bmp cannot be written. Use .png, .jpg or .webp"),
        ("bark.wav bark.wav -o out.png", "out.png is one file, and there are 2 inputs."),
        ("bark.wav -o out --offload model --device cpu", "--offload: there is nothing to offload"),
        ("bark.wav -o out --decoder ./nowhere", "There is no decoder folder './nowhere'."),
        ("absent.wav -o out", "INPUT: absent.wav does not exist."),
        ("*.flac -o out", "INPUT: No audio and no video matches *.flac."),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    run, painter_folder, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    write_tone(tmp_path / "bark.wav")
    model = () if "--decoder" in options else ("--decoder", painter_folder)
    status, shown, complaint = run("audio-to-image", *options.split(), *model)
    assert (status, shown) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert words in complaint


@pytest.mark.parametrize(
    ("class_name", "expected"),
    [
        ("KandinskyV22Pipeline", "--translator: "),
        ("AudioLDMPipeline", "--decoder: .* holds an AudioLDMPipeline; expected "),
    ],
)
def test_a_decoder_of_a_wrong_class_or_without_a_translator_is_refused(
    run, tmp_path, class_name, expected
):
    write_tone(tmp_path / "bark.wav")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": class_name}))
    call = ("audio-to-image", tmp_path / "bark.wav", "-o", tmp_path / "out")
    status, _, complaint = run(*call, "--decoder", tmp_path)
    assert status == 2
    assert re.search(expected, complaint)
