"""`clip2clap audio-to-image --film`."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

Run = Callable[..., tuple[int, str, str]]


def write_tone(path: Path, hertz: float, seconds: float) -> Path:
    times = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * hertz * times), 16_000)
    return path


def describe(path: Path) -> tuple[int, tuple[int, int], float]:
    """Give a film's frames, its size, and its sound's length in s."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    return len(frames), frames[0].shape[1::-1], samples / 48_000


@pytest.mark.parametrize("way", [(), ("--walk", "2"), ("--paint-on", "2")])
def test_audio_becomes_a_film(run: Run, tmp_path: Path, painter_folder: Path, way):
    sound = write_tone(tmp_path / "song.wav", 440, 1.5)
    film = tmp_path / "song.mp4"
    call = ("audio-to-image", sound, "--film", "-o", film, "--decoder", painter_folder, "--fps", 4)
    status, shown, said = run(*call, *way)
    assert (status, shown) == (0, f"{film}\n"), said
    frames, size, seconds = describe(film)
    assert (frames, size) == (6, (256, 256))
    assert seconds == pytest.approx(1.5, abs=0.03)


def test_several_audio_files_make_one_film_or_one_each(run, tmp_path, painter_folder):
    sounds = [write_tone(tmp_path / f"{hertz}.wav", hertz, 1.0) for hertz in (300, 900)]
    options = ("--film", "--decoder", painter_folder, "--fps", 4, "--film-size", "64x32", "--json")
    call = ("audio-to-image", *sounds, tmp_path / "none.wav", *options)
    one = tmp_path / "one.mp4"
    joined = ("--crossfade", 0.5, "--title", "Two", "-o", one)
    status, shown, _ = run("audio-to-image", *sounds, *options, *joined)
    assert status == 0
    (made,) = json.loads(shown)["results"]
    # Two seconds of title, and 0.5 s that both share.
    assert (made["frames"], made["seconds"]) == (14, 3.5)
    assert describe(one)[:2] == (14, (64, 32))
    status, shown, said = run(*call, "-o", tmp_path / "films")
    assert status == 1
    assert "none.wav" in said
    assert [Path(film["output"]).name for film in json.loads(shown)["results"]] == [
        "300.mp4",
        "900.mp4",
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fps", "0"), "--fps"),
        (("--film-size", "63x64"), "--film-size"),
        (("--smoothing", "-1"), "--smoothing"),
        (("--num-images", "2"), "--num-images"),
        (("-o", "film.webm"), "--output"),
    ],
)
def test_mistakes_are_said_in_one_line(run, tmp_path, painter_folder, options, says):
    sound = write_tone(tmp_path / "song.wav", 440, 0.5)
    call = (
        "audio-to-image",
        sound,
        "--film",
        "-o",
        tmp_path / "x.mp4",
        "--decoder",
        painter_folder,
    )
    status, _, said = run(*call, *options)
    assert status == 2
    assert said.startswith(f"error: {says}")
    assert said.count("\n") == 1
