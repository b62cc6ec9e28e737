"""Films of images as they develop."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.inference.film.development import Development, make_development_film
from clip2clap.media.audio import load_audio


def frames(*levels: int) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (level,) * 3) for level in levels]


def read(path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


@pytest.fixture
def tones(tmp_path) -> list[str]:
    times = np.arange(16_000) / 16_000
    for name, hertz, seconds in (("low", 300, 1.0), ("high", 3000, 0.5)):
        wave = 0.4 * np.sin(2 * np.pi * hertz * times[: round(seconds * 16_000)])
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000)
    return [str(tmp_path / "low.wav"), str(tmp_path / "high.wav")]


def test_parts_follow_one_another_each_with_its_audio(tones, tmp_path):
    parts = [Development(frames(0, 100), tones[0]), Development(frames(200, 250), tones[1])]
    made = make_development_film(tmp_path / "x.mp4", parts, fps=Fraction(10))
    assert (made.frames, made.seconds) == (15, pytest.approx(1.5))
    shown = read(tmp_path / "x.mp4")
    assert shown[0].shape == (288, 384, 3)
    levels = [int(frame.mean()) for frame in shown]
    assert len(levels) == 15
    # The end of each is held.
    expected = [0] * 5 + [100] * 5 + [200] * 3 + [250] * 2
    assert np.abs(np.array(levels) - expected).max() < 12
    wave, rate = load_audio(tmp_path / "x.mp4")
    half = np.abs(np.fft.rfft(wave[: rate // 2])).argmax() * 2
    late = wave[round(1.05 * rate) : round(1.45 * rate)]
    assert abs(half - 300) < 10
    assert abs(np.abs(np.fft.rfft(late)).argmax() / 0.4 - 3000) < 30


def test_without_audio_it_is_silent_and_without_frames_refused(tmp_path):
    part = Development(frames(50))
    made = make_development_film(tmp_path / "x.mp4", [part], fps=4, silent_s=1)
    assert made.frames == 4
    assert np.abs(load_audio(tmp_path / "x.mp4")[0]).max() < 1e-3
    with pytest.raises(UserError, match="no frames"):
        make_development_film(tmp_path / "y.mp4", [Development([])])
    assert not (tmp_path / "y.mp4").exists()
